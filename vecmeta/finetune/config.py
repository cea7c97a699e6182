"""What a fine-tuning can be asked for, checked once, with defaults for 50 to 50,000 labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

from vecmeta.errors import InvalidConfig

Mode: TypeAlias = Literal["features", "lora", "full"]
Transfer: TypeAlias = Literal["representation", "parameters", "instances", "relations"]
MODES: tuple[Mode, ...] = get_args(Mode)
TRANSFERS: tuple[Transfer, ...] = get_args(Transfer)
Precision: TypeAlias = Literal["auto", "fp32", "bf16"]

_RATES: dict[Mode, float] = {"features": 1e-3, "lora": 1e-3, "full": 5e-5}  # of AdamW, at its highest
# Convolutions bear less: with five labels a class of Caltech-101 the classes held out whole lose .052 at 1e-3, and gain .009 at 3e-4.
_RATES_OF_PICTURES: dict[Mode, float] = {**_RATES, "lora": 3e-4}
_WEIGHTS = ("l2_sp", "relation_weight", "coral")


@dataclass(frozen=True, slots=True)
class FinetuneConfig:
    """How an encoder is fine-tuned.

    ``mode``            "features": the encoder frozen, a new last layer (Yosinski et al. 2014); "lora": low-rank updates of its layers
                        (Hu et al. 2022), merged in the end; "full": all layers, lower ones more slowly, thawed from the top (ULMFiT,
                        Howard and Ruder 2018).
    ``transfer``        what is carried over besides, any of
        "representation"  second moments of source and target vectors are drawn together (Deep CORAL, Sun and Saenko 2016); needs source
                          examples or unlabelled contents;
        "parameters"      a pull to the pretrained weights (L2-SP, Li et al. 2018);
        "instances"       source examples are learned from too, as often as they look like the target: p(target | x) / p(source | x) by
                          logistic regression (Bickel et al. 2007); needs source examples;
        "relations"       distances and angles among items stay those of the untouched encoder (relational knowledge distillation, Park et
                          al. 2019), among the unlabelled contents where there are any, otherwise among the examples.
    ``rate``            the highest learning rate of AdamW; None: 1e-3 (features, and lora on texts), 3e-4 (lora on
                        pictures) or 5e-5 (full).
    ``steps``           at most so many; None: ten passes over the examples, from 60 to 1,500 steps.
    ``pairs``           pairs of alike items in a batch, each of another class where there are so many.
    ``metric``          what an early stop watches on held-out examples: "map" (MAP@R) or "ndcg" (nDCG@10).
    ``holdout``         share of the examples that are held out for that, stratified by class.
    ``patience``        measurements below the best one after which it stops.
    ``measurements``    how many there are at most; fewer where more contents would be encoded to measure than to learn.
    ``layer_decay``     rate of a layer, of that of the layer above it ("full").
    ``unfreeze``        share of the steps after which all layers learn ("full").
    ``scale``           of cosines in the loss (sentence-transformers' MultipleNegativesRankingLoss; van den Oord et al. 2018).
    ``rank``            of LoRA's updates.
    ``l2_sp``, ``relation_weight``, ``coral``  weights of those losses.
    ``tokens``          of a text that are read in training, at most.
    ``side``            of pictures in training, pixels; None: as the encoder takes them.
    ``precision``       what the network computes in, by torch's autocast: "auto" is bfloat16 on a GPU that has it, float16 with scaled
                        gradients on an older one, and float32 elsewhere; "fp32" and "bf16" anywhere. Weights are float32 in any case.
    ``seed``            of the split, batches, dropout and new weights.

    Raises InvalidConfig.
    """

    mode: Mode = "full"
    transfer: tuple[Transfer, ...] = ()
    rate: float | None = None
    steps: int | None = None
    pairs: int = 24
    metric: Literal["map", "ndcg"] = "map"
    holdout: float = 0.2
    patience: int = 4
    measurements: int = 12
    layer_decay: float = 0.9
    unfreeze: float = 0.3
    scale: float = 20.0
    rank: int = 8
    l2_sp: float = 0.01
    relation_weight: float = 1.0
    coral: float = 30.0
    tokens: int = 128
    side: int | None = None
    precision: Precision = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "transfer", _transfers(self.transfer))
        if self.mode not in MODES:
            raise InvalidConfig(f"mode {self.mode!r} is none of {', '.join(MODES)}")
        if self.metric not in ("map", "ndcg"):
            raise InvalidConfig(f"metric is 'map' or 'ndcg', not {self.metric!r}")
        if self.precision not in get_args(Precision):
            raise InvalidConfig(f"precision is one of {', '.join(get_args(Precision))}, not {self.precision!r}")
        whole = {"pairs": (2, 4096), "patience": (1, 1000), "measurements": (1, 1000), "rank": (1, 512), "tokens": (4, 8192),
                 "seed": (0, 2**63 - 1), "steps": (1, 10**7), "side": (32, 2048)}  # fmt: skip
        for name, (least, most) in whole.items():
            value = getattr(self, name)
            if value is None and name in ("steps", "side"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise InvalidConfig(f"{name} is a whole number from {least} to {most}, not {value!r}")
        shares: dict[str, tuple[float, float]] = {
            "holdout": (0.0, 0.5), "layer_decay": (0.01, 1.0), "unfreeze": (0.0, 1.0), "scale": (1e-3, 1e3), "rate": (1e-8, 1.0),
            **dict.fromkeys(_WEIGHTS, (0.0, 1000000.0)),
        }  # fmt: skip
        for name, (low, high) in shares.items():
            value = getattr(self, name)
            if value is None and name == "rate":
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                raise InvalidConfig(f"{name} is a number from {low:g} to {high:g}, not {value!r}")

    def rated(self, modality: str) -> FinetuneConfig:
        """The same, with the default rate for an encoder of "text" or "image" where none was given."""
        rates = _RATES_OF_PICTURES if modality == "image" else _RATES
        return self if self.rate is not None else replace(self, rate=rates[self.mode])

    @property
    def top_rate(self) -> float:
        """The highest learning rate; of texts where it is not said."""
        return self.rate if self.rate is not None else _RATES[self.mode]

    def steps_for(self, examples: int) -> int:
        """How many steps at most, for so many examples that are learned from."""
        if self.steps is not None:
            return self.steps
        return min(1500, max(60, round(10 * examples / (2 * self.pairs))))


def _transfers(given: Any) -> tuple[Transfer, ...]:
    if not isinstance(given, (str, list, tuple)):
        raise InvalidConfig(f"transfer is a list of {', '.join(TRANSFERS)}, not {given!r}")
    listed = (given,) if isinstance(given, str) else tuple(given)
    for name in listed:
        if name not in TRANSFERS:
            raise InvalidConfig(f"transfer {name!r} is none of {', '.join(TRANSFERS)}")
    return tuple(name for name in TRANSFERS if name in listed)


def collections_transfers(given: Any, source: object) -> None:
    """Raises InvalidConfig when the kinds of transfer and the `source` examples that a collection is given (None: none) do not fit."""
    kinds = _transfers(given)
    if "instances" in kinds and source is None:
        raise InvalidConfig(
            "transfer='instances' needs source examples, which are learned from too: give source, 'NAME' of another collection (its "
            "judgements) or 'NAME:FIELD' (its metadata)"
        )
    if source is not None and not {"instances", "representation"} & set(kinds):
        raise InvalidConfig("source examples are for transfer='instances' and transfer='representation'; neither was asked for")


def named_source(source: object) -> tuple[str, str | None]:
    """The collection and the metadata field (None: its judgements) that 'NAME' or 'NAME:FIELD' means. Raises InvalidConfig."""
    if not isinstance(source, str) or not source:
        raise InvalidConfig(f"source is 'NAME' of a collection, or 'NAME:FIELD' with a metadata field of it, not {source!r}")
    name, colon, field = source.partition(":")
    if colon and not field:
        raise InvalidConfig(f"source {source!r} names no metadata field: 'NAME:FIELD', or 'NAME' for the collection's judgements")
    return name, field or None
