# One Triton replica of a fleet, as the pipeline expects it to be started.
# CI does not build it (it has no container engine). NVIDIA's image already has the ONNX Runtime backend and S3; only the
# arguments matter, and they are as well written into a Kubernetes manifest.
#
#   docker build -f docker/triton.Dockerfile -t model-release-triton .
#   docker run -e REPOSITORY=s3://BUCKET/PREFIX/serving/default/blue -e AWS_ACCESS_KEY_ID=... \
#       -e CONTROL_KEY=x-release-key=... model-release-triton
#
# The credentials are read-only, and for this prefix alone: whoever writes there runs code here. The control API (load
# and unload) is for the pipeline, which has CONTROL_KEY as the environment's triton_key: keep it off the clients' network
# too; clients reach Triton through the router.
FROM nvcr.io/nvidia/tritonserver:26.06-py3

EXPOSE 8000 8001 8002
ENV CONTROLLED=model-repository,model-config,shared-memory,trace,logging

# The shell is replaced by the server, so that it gets SIGTERM itself and finishes what it was asked.
CMD ["/bin/sh", "-c", "exec tritonserver \
    --model-repository=${REPOSITORY:?set it to the fleet's serving prefix} \
    --model-control-mode=explicit --load-model=* \
    --exit-on-error=false --strict-readiness=false --disable-auto-complete-config --model-load-retry-count=2 \
    --http-restricted-api=$CONTROLLED:${CONTROL_KEY:?set it to name=value} \
    --grpc-restricted-protocol=$CONTROLLED:$CONTROL_KEY"]
