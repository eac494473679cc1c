"""How the classes of timm's and transformers' attention nets lie: which row describes which class.

The rows stand in the files beside this one; a file is imported when a net has one of its classes. Imports no torch.
"""

_BERT = ("bert.modeling_bert.Bert", "electra.modeling_electra.Electra", "roberta.modeling_roberta.Roberta")
_LLAMA = ("llama.modeling_llama.Llama", "mistral.modeling_mistral.Mistral", "qwen2.modeling_qwen2.Qwen2")
_VIT = ("deit.modeling_deit.DeiT", "vit.modeling_vit.ViT")
"""How the names of classes begin that are made alike, in transformers."""
_TIMM = {
    "layers.attention.Attention": "ATTENTION",
    "layers.attention.AttentionRope": "ATTENTION_ROPE",
    "layers.mlp.Mlp": "MLP",
    "models.efficientformer.Attention": "EFFICIENTFORMER_ATTENTION",
    "models.efficientformer.ConvMlpWithNorm": "CONV_MLP",
    "models.efficientformer.MetaBlock1d": "EFFICIENTFORMER_BLOCK",
    "models.efficientformer.MetaBlock2d": "EFFICIENTFORMER_CONV_BLOCK",
    "models.swin_transformer.SwinTransformerBlock": "BLOCK",
    "models.swin_transformer.WindowAttention": "SWIN_ATTENTION",
    "models.vision_transformer.Block": "BLOCK",
}
_TRANSFORMERS = {
    **{f"{name}SelfAttention": "BERT_ATTENTION" for name in _BERT},
    **{f"{name}Intermediate": "BERT_MLP" for name in _BERT},
    **{f"{name}Layer": "POST_NORM_BLOCK" for name in _BERT},
    "deberta_v2.modeling_deberta_v2.DebertaV2Intermediate": "BERT_MLP",
    "deberta_v2.modeling_deberta_v2.DebertaV2Layer": "POST_NORM_BLOCK",
    "deberta_v2.modeling_deberta_v2.DisentangledSelfAttention": "DEBERTA_ATTENTION",
    "distilbert.modeling_distilbert.DistilBertSelfAttention": "DISTILBERT_ATTENTION",
    "distilbert.modeling_distilbert.FFN": "DISTILBERT_MLP",
    "distilbert.modeling_distilbert.TransformerBlock": "POST_NORM_BLOCK",
    "gpt2.modeling_gpt2.GPT2Attention": "GPT2_ATTENTION",
    "gpt2.modeling_gpt2.GPT2Block": "GPT2_BLOCK",
    "gpt2.modeling_gpt2.GPT2MLP": "GPT2_MLP",
    **{f"{name}Attention": "LLAMA_ATTENTION" for name in _LLAMA},
    **{f"{name}DecoderLayer": "LLAMA_BLOCK" for name in _LLAMA},
    **{f"{name}MLP": "LLAMA_MLP" for name in _LLAMA},
    **{f"{name}Attention": "VIT_ATTENTION" for name in _VIT},
    **{f"{name}Layer": "VIT_BLOCK" for name in _VIT},
    **{f"{name}MLP": "VIT_MLP" for name in _VIT},
}
ROWS = (
    *((f"timm.{name}", f"attention.timm_nets:{row}") for name, row in _TIMM.items()),
    *((f"transformers.models.{name}", f"attention.transformers_nets:{row}") for name, row in _TRANSFORMERS.items()),
)
