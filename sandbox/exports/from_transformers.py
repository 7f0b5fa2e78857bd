"""Architectures of the package transformers, at modest sizes, with seeded random weights."""

from __future__ import annotations

from typing import Any

from sandbox.exports.architecture import Architecture, tensor

_FACTORY = "sandbox.exports.factories:transformer"
_WIDTH, _VOCABULARY, _LONGEST, _LABELS = 128, 4000, 64, 10
_ENCODER = {
    "hidden_size": _WIDTH,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 2 * _WIDTH,
}
_TEXT = {**_ENCODER, "vocab_size": _VOCABULARY, "max_position_embeddings": _LONGEST + 4}
_FP16 = {"export": {"precision": "fp16"}}


def _made(name: str, family: str, model: str, config: dict[str, Any], values: dict[str, Any]) -> Architecture:
    return Architecture(name, family, _FACTORY, values, {"model": model, "config": config})


def _text(
    name: str, family: str, model: str, config: dict[str, Any], outputs: dict[str, list[Any]], **more: Any
) -> Architecture:
    """Token ids and a mask with a dynamic length; outputs by name with their shapes."""
    values = {
        "inputs": [
            tensor("input_ids", "int64", "seq", bounds=(0, _VOCABULARY - 1)),
            tensor("attention_mask", "int64", "seq", bounds=(0, 1)),
        ],
        "dynamic_axes": {"seq": {"min": 2, "max": _LONGEST}},
        "outputs": [tensor(output, "float32", *shape) for output, shape in outputs.items()],
        **more,
    }
    return _made(name, family, model, config, values)


def _image(
    name: str, family: str, model: str, config: dict[str, Any], side: int, outputs: dict[str, list[Any]], **more: Any
) -> Architecture:
    values = {
        "inputs": [tensor("pixel_values", "float32", 3, side, side, bounds=(-2.5, 2.5))],
        "outputs": [tensor(output, "float32", *shape) for output, shape in outputs.items()],
        **more,
    }
    return _made(name, family, model, config, values)


def _audio(name: str, model: str, config: dict[str, Any], **more: Any) -> Architecture:
    values = {
        "inputs": [tensor("input_values", "float32", "time", bounds=(-1, 1))],
        "dynamic_axes": {"time": {"min": 800, "max": 6000}},
        "outputs": [tensor("last_hidden_state", "float32", "frames", _WIDTH)],
        **more,
    }
    return _made(name, "speech encoder", model, config, values)


_STATES: dict[str, list[Any]] = {"last_hidden_state": ["seq", _WIDTH]}
_POOLED: dict[str, list[Any]] = {**_STATES, "pooler_output": [_WIDTH]}
_LOGITS: dict[str, list[Any]] = {"logits": [_LABELS]}
_VIT = {**_ENCODER, "image_size": 32, "patch_size": 8}
_DISTIL = {
    "dim": _WIDTH,
    "n_layers": 3,
    "n_heads": 4,
    "hidden_dim": 256,
    "vocab_size": _VOCABULARY,
    "max_position_embeddings": _LONGEST,
}
_T5 = {"d_model": _WIDTH, "d_kv": 32, "d_ff": 256, "num_layers": 3, "num_heads": 4, "vocab_size": _VOCABULARY}
_GPT2 = {
    "n_embd": _WIDTH,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": _LONGEST,
    "vocab_size": _VOCABULARY,
    "use_cache": False,
}
_LLAMA = {**_TEXT, "num_key_value_heads": 2, "use_cache": False}
_CONV_FRONT = {
    **_ENCODER,
    "conv_dim": [32, 32, 32],
    "conv_kernel": [10, 3, 3],
    "conv_stride": [5, 2, 2],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
_RESNET = {
    "embedding_size": 16,
    "hidden_sizes": [32, 64, 128],
    "depths": [2, 2, 2],
    "layer_type": "basic",
    "num_labels": _LABELS,
}
_SEGFORMER = {
    "hidden_sizes": [16, 32, 64, 128],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 2, 4, 4],
    "decoder_hidden_size": 64,
    "num_labels": 5,
}
_DETR = {
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone_config": {"class": "ResNetConfig", **_RESNET, "out_features": ["stage3"]},
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "num_queries": 10,
    "num_labels": _LABELS,
}
_WHISPER = {
    "d_model": _WIDTH,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 256,
    "max_source_positions": 100,
    "num_mel_bins": 80,
}

TEXT = [
    _text("bert", "text encoder", "BertModel", _TEXT, _POOLED),
    _text("bert_fp16", "text encoder, fp16", "BertModel", _TEXT, _POOLED, **_FP16),
    _text(
        "distilbert",
        "text classifier",
        "DistilBertForSequenceClassification",
        {**_DISTIL, "num_labels": _LABELS},
        _LOGITS,
    ),
    _text("roberta", "text encoder", "RobertaModel", _TEXT, _POOLED),
    _text(
        "xlm_roberta",
        "token tagger",
        "XLMRobertaForTokenClassification",
        {**_TEXT, "num_labels": 7},
        {"logits": ["seq", 7]},
    ),
    _text("albert", "text encoder", "AlbertModel", {**_TEXT, "embedding_size": 64}, _POOLED),
    _text("electra", "text encoder", "ElectraModel", {**_TEXT, "embedding_size": 64}, _STATES),
    _text(
        "deberta_v2",
        "text encoder",
        "DebertaV2Model",
        {**_TEXT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 32},
        _STATES,
    ),
    _text("mpnet", "text encoder", "MPNetModel", _TEXT, _POOLED),
    _text("modernbert", "text encoder", "ModernBertModel", {**_TEXT, "pad_token_id": 0}, _STATES),
    _text("t5_encoder", "text encoder", "T5EncoderModel", _T5, _STATES),
    _text(
        "clip_text",
        "text tower",
        "CLIPTextModelWithProjection",
        {**_TEXT, "projection_dim": 64, "eos_token_id": _VOCABULARY - 1},
        {"text_embeds": [64]},
    ),
    _text("gpt2", "decoder, no cache", "GPT2LMHeadModel", _GPT2, {"logits": ["seq", _VOCABULARY]}),
    _text("llama", "decoder, no cache", "LlamaForCausalLM", _LLAMA, {"logits": ["seq", _VOCABULARY]}),
]

VISION = [
    _image("resnet", "image CNN", "ResNetForImageClassification", _RESNET, 64, _LOGITS),
    _image("resnet_fp16", "image CNN, fp16", "ResNetForImageClassification", _RESNET, 64, _LOGITS, **_FP16),
    _image(
        "convnext",
        "image CNN",
        "ConvNextForImageClassification",
        {"hidden_sizes": [16, 32, 64, 128], "depths": [1, 1, 2, 1], "num_labels": _LABELS},
        64,
        _LOGITS,
    ),
    _image(
        "mobilenet_v2",
        "image CNN",
        "MobileNetV2ForImageClassification",
        {"depth_multiplier": 0.5, "num_labels": _LABELS},
        64,
        _LOGITS,
    ),
    _image(
        "efficientnet",
        "image CNN",
        "EfficientNetForImageClassification",
        {"width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 640, "num_labels": _LABELS},
        64,
        _LOGITS,
    ),
    _image(
        "regnet",
        "image CNN",
        "RegNetForImageClassification",
        {"hidden_sizes": [32, 64, 96, 128], "depths": [1, 2, 2, 1], "groups_width": 16, "num_labels": _LABELS},
        64,
        _LOGITS,
    ),
    _image("vit", "image transformer", "ViTForImageClassification", {**_VIT, "num_labels": _LABELS}, 32, _LOGITS),
    _image(
        "deit",
        "image transformer",
        "DeiTForImageClassificationWithTeacher",
        {**_VIT, "num_labels": _LABELS},
        32,
        {**_LOGITS, "cls_logits": [_LABELS], "distillation_logits": [_LABELS]},
    ),
    _image("beit", "image transformer", "BeitForImageClassification", {**_VIT, "num_labels": _LABELS}, 32, _LOGITS),
    _image(
        "dinov2",
        "image transformer",
        "Dinov2Model",
        {**_VIT, "image_size": 56, "patch_size": 14},
        56,
        {"last_hidden_state": [17, _WIDTH], "pooler_output": [_WIDTH]},
    ),
    _image(
        "swin",
        "image transformer",
        "SwinForImageClassification",
        {"image_size": 64, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "num_labels": 10},
        64,
        _LOGITS,
    ),
    _image(
        "clip_vision",
        "image tower",
        "CLIPVisionModelWithProjection",
        {**_VIT, "projection_dim": 64},
        32,
        {"image_embeds": [64]},
    ),
    _image(
        "segformer",
        "segmentation",
        "SegformerForSemanticSegmentation",
        _SEGFORMER,
        64,
        {"logits": [5, 16, 16]},
    ),
    _image(
        "detr",
        "detection",
        "DetrForObjectDetection",
        _DETR,
        64,
        {"logits": [10, _LABELS + 1], "pred_boxes": [10, 4]},
    ),
]

AUDIO = [
    # Its GroupNorm divides by the deviation over time, which is 0 for a constant signal at full scale, one of the edge
    # values: rounding is magnified 300 times there, in PyTorch too (7e-4 from float64). On sound both agree to 3e-6.
    _audio("wav2vec2", "Wav2Vec2Model", _CONV_FRONT, parity={"atol": 2e-2}),
    _audio("hubert", "HubertModel", {**_CONV_FRONT, "feat_extract_norm": "layer", "do_stable_layer_norm": True}),
    _made(
        "whisper_encoder",
        "speech encoder",
        "whisper.modeling_whisper:WhisperEncoder",
        _WHISPER,
        {
            "inputs": [tensor("input_features", "float32", 80, 200, bounds=(-1, 1))],
            "outputs": [tensor("last_hidden_state", "float32", 100, _WIDTH)],
        },
    ),
]
