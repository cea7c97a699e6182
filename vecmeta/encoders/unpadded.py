"""The layers of a BERT over the tokens of several texts one after the other, without padding (Zeng et al. 2022, unpadded BERT).

A linear layer does not care which text a token is of, so it gets all of them at once; only attention is computed text by text, those of
one length together. In int8 that is more than the time that padding takes: a text's vector does not depend on those beside it, which
padding would change a little and rounding to whole numbers much, and batches of one length are seven times as many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from vecmeta.encoders.layers import Places


class _Layer(NamedTuple):
    """One layer: (tokens, in) -> (tokens, out) each."""

    qkv: Callable[[Any], Any]
    attended: Callable[[Any], Any]
    attended_norm: Callable[[Any], Any]
    wide: Callable[[Any], Any]
    activation: Callable[[Any], Any]
    narrow: Callable[[Any], Any]
    norm: Callable[[Any], Any]


def unpad_bert(model: Any, linear: Callable[..., Any]) -> Places:
    """Put such layers in the place of those of the BERT that `model` holds; what was there.

    Args:
        linear: makes one layer of one or several linear ones, see `layers.packed_linear` and `layers.whole_linear`.

    Raises:
        AttributeError, TypeError: there is none, or it is made otherwise.
    """
    import torch
    from transformers import BertModel
    from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

    def unpadded(bert: Any) -> Any:
        heads, layers = int(bert.config.num_attention_heads), [_layer(layer, linear) for layer in bert.encoder.layer]

        class Unpadded(torch.nn.Module):
            def forward(self, hidden_states: Any, attention_mask: Any = None, **_: Any) -> Any:
                texts, longest, dim = hidden_states.shape
                tokens, lengths, visible = hidden_states.reshape(-1, dim), [longest] * texts, None
                if attention_mask is not None:  # (texts, 1, longest, longest), of every token the same
                    seen = attention_mask[:, 0, 0]
                    visible = seen if seen.dtype == torch.bool else seen == 0
                    lengths, visible = visible.sum(1).tolist(), visible.flatten()
                    tokens = tokens[visible]
                for layer in layers:
                    tokens = _through(layer, tokens, lengths, heads)
                if visible is not None:
                    whole = torch.zeros(texts * longest, dim)
                    whole[visible] = tokens
                    tokens = whole
                return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=tokens.view(texts, longest, dim))

        return Unpadded()

    bert = next((module for module in model.modules() if type(module) is BertModel and not module.config.is_decoder), None)
    if bert is None:
        raise TypeError(f"a {type(model).__name__} without a BERT")
    before, bert.encoder = bert.encoder, unpadded(bert)
    return [(bert, "encoder", before)]


def _layer(layer: Any, linear: Callable[..., Any]) -> _Layer:
    own = layer.attention.self
    return _Layer(
        qkv=linear(own.query, own.key, own.value),
        attended=linear(layer.attention.output.dense),
        attended_norm=layer.attention.output.LayerNorm,
        wide=linear(layer.intermediate.dense),
        activation=layer.intermediate.intermediate_act_fn,
        narrow=linear(layer.output.dense),
        norm=layer.output.LayerNorm,
    )


def _through(layer: _Layer, tokens: Any, lengths: Sequence[int], heads: int) -> Any:
    """(tokens, dim) -> (tokens, dim)."""
    tokens = layer.attended_norm(layer.attended(_attention(layer.qkv(tokens), lengths, heads)).add_(tokens))
    return layer.norm(layer.narrow(layer.activation(layer.wide(tokens))).add_(tokens))


def _attention(qkv: Any, lengths: Sequence[int], heads: int) -> Any:
    """Queries, keys and values (tokens, 3 dim) -> (tokens, dim)."""
    from torch.nn.functional import scaled_dot_product_attention

    dim, at = qkv.shape[1] // 3, 0
    out = qkv.new_empty(len(qkv), dim)
    for length, texts in groupby(lengths):
        many = sum(1 for _ in texts)
        part = slice(at, at + many * length)
        query, key, value = qkv[part].view(many, length, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)
        found = scaled_dot_product_attention(query, key, value)  # (many, heads, length, dim / heads)
        out[part].view(many, length, heads, dim // heads).copy_(found.transpose(1, 2))
        at = part.stop
    return out
