"""What to do about operators that nets often use and the graph has no op for; the rules that exist are in `ir.aten`."""

from __future__ import annotations

_NORM = (
    "use nn.BatchNorm2d, which folds into the convolutions; this norm computes statistics of every image, in several "
    "passes over memory that no int8 runtime fuses"
)
_ATTENTION = "attention multiplies activations with each other; edgecnn exports convolutional nets: choose one of those"
_RESIZE = 'enlarge by mode="nearest" and a whole factor: the runtimes interpolate in ways of their own in 8 bits'
_FUNCTION = "use an activation that has an 8-bit form: relu, relu6, hardswish, hardsigmoid, silu, sigmoid, tanh, gelu"
_AROUND = "pad with zeros instead: nn.ZeroPad2d, or the padding of the convolution"
_REDUCE = "use x.mean((2, 3)) or a pool of the image"
_DIVIDE = "normalise by a constant or by a layer: an 8-bit quotient has no form in the runtimes"

_BY_REASON = {
    _NORM: "layer_norm native_layer_norm group_norm native_group_norm instance_norm rms_norm _fused_rms_norm",
    _ATTENTION: "scaled_dot_product_attention bmm baddbmm einsum _native_multi_head_attention "
    "multi_head_attention_forward outer dot mv linalg_vecdot",
    _RESIZE: "upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa grid_sampler grid_sampler_2d "
    "pixel_shuffle conv_transpose2d im2col col2im",
    _FUNCTION: "mish mish_ elu elu_ selu selu_ celu celu_ softplus hardshrink softshrink log_sigmoid threshold glu "
    "erf exp log sin cos sinh cosh tan rrelu rrelu_with_noise",
    _AROUND: "reflection_pad2d replication_pad2d _pad_circular",
    _REDUCE: "amax amin max min var std var_mean std_mean norm linalg_vector_norm argmax topk cumsum",
    _DIVIDE: "sqrt rsqrt reciprocal",
}

ADVICE = {name: reason for reason, names in _BY_REASON.items() for name in names.split()}
"""By the operator's name without library and overload: what to write instead."""
