"""The typed schema of a config file: what each key of the sections ``train`` and ``eval`` means."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from data.config import DataConfig
from models.config import ModelConfig

Positive = Annotated[int, Field(gt=0, lt=2**31)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A part of the config: unknown keys are refused and values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TrainConfig(Section):
    """How the weights are found. The defaults are the paper's ImageNet recipe (section 3.2).

    The rates are written as Swin and the authors write them, for 512 images, and multiplied by batch_size / lr_batch.
    """

    epochs: Positive = Field(default=300, description="passes over the training images")
    batch_size: Positive = Field(
        default=1024, description="images per optimiser step, over all ranks and accumulated parts"
    )
    accumulation: Positive = Field(default=1, description="parts into which each rank splits its share of a batch")
    seed: int = Field(default=0, ge=0, lt=2**31, description="of weights, order, augmentation and stochastic depth")

    optimizer: str = Field(default="adamw", description="any name of timm.optim")
    lr: Rate = Field(default=5e-4, description="highest rate, for a batch of lr_batch images")
    lr_batch: Positive | None = Field(
        default=512, description="lr, warmup_lr and min_lr are multiplied by batch_size / lr_batch; null: as they stand"
    )
    weight_decay: Rate = Field(default=0.05, description="of weights with two dimensions or more")
    betas: tuple[Fraction, Fraction] | None = Field(
        default=None, description="null: the optimiser's own, 0.9 and 0.999"
    )
    eps: float | None = Field(default=None, gt=0, description="null: the optimiser's own, 1e-8")
    momentum: Fraction = Field(default=0.9, description="of the optimisers that have one")
    optimizer_args: dict[str, Any] = Field(default_factory=dict, description="further arguments of the optimiser")
    layer_decay: float | None = Field(
        default=None, gt=0, le=1, description="lr factor from each layer to the one before it"
    )
    head_lr_scale: float = Field(default=1.0, gt=0, description="lr of the classifier, times that of the rest")
    clip_grad: float | None = Field(default=5.0, gt=0, description="largest norm of the gradient; null: no limit")

    schedule: Literal["cosine", "tanh", "poly", "step", "multistep", "wsd", "rsqrt", "constant"] = Field(
        default="cosine", description="how the rate falls after the warm-up, by timm's name"
    )
    warmup_epochs: Rate = Field(default=20, description="epochs of linear warm-up from warmup_lr")
    cooldown_epochs: Rate = Field(default=0, description="of the epochs, how many at the end stay at min_lr")
    warmup_lr: Rate = Field(default=5e-7, description="rate of the first step, for a batch of lr_batch images")
    min_lr: Rate = Field(default=5e-6, description="rate at the end, for a batch of lr_batch images")
    warmup_prefix: bool = Field(default=False, description="begin the decay at the end of the warm-up, not under it")
    schedule_args: dict[str, Any] = Field(default_factory=dict, description="further arguments of timm's schedule")

    ema_decay: Fraction | None = Field(default=None, description="keep a moving average of the weights; null: none")
    ema_warmup: bool = Field(
        default=False, description="begin with a faster average: min(decay, 1 - (1 + step)^(-2/3))"
    )

    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32", description="of forward and backward pass, by autocast; the weights stay in fp32"
    )
    sync_bn: bool = Field(default=False, description="batch statistics over all ranks")
    channels_last: bool = Field(default=False, description="images and convolutions in NHWC memory")
    compile: bool = Field(default=False, description="train by torch.compile; evaluation is not compiled")
    bn_batch: Positive | None = Field(
        default=128, description="images behind a batch statistic in the recipe; null: any"
    )
    deterministic: bool = Field(default=False, description="GPU kernels that give the same bits in each run; slower")
    threads: int | None = Field(default=None, ge=1, le=1024, description="CPU threads of a rank; null: torch's choice")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: a GPU where there is one")

    init_checkpoint: Path | None = Field(default=None, description="weights to start from; resized to this model")
    keep_kernel_response: bool = Field(
        default=False, description="kernels resized for init_checkpoint keep their sums; false: plain bicubic (Table 5)"
    )
    freeze: tuple[str, ...] = Field(
        default=(),
        description="what is not trained: stem, modules such as stages.0, or patterns of parameter names such as "
        "*.bias; frozen batch norms keep their statistics",
    )
    class_weights: Literal["balanced"] | tuple[Share, ...] | dict[str, Share] | None = Field(
        default=None,
        description="of the classes in the loss: balanced (all classes count alike), a number for each class in their "
        "order, or numbers by name (the others 1)",
    )
    patience: Positive | None = Field(
        default=None, description="epochs without a better top-1 after which the run ends; null: it never does"
    )
    save_every: Positive = Field(default=1000, description="steps between checkpoints; each epoch's end saves, too")
    keep: Positive = Field(default=2, description="checkpoints that stay")
    save_ema: bool = Field(
        default=True, description="last and best hold the averaged weights where there is an average"
    )

    log_every: Positive = Field(default=50, description="steps between lines of the log")
    tensorboard: bool = Field(default=True, description="write scalars for TensorBoard into the run folder")
    wandb: str | None = Field(default=None, description="project in Weights & Biases")
    profile: bool = Field(default=False, description="write a trace of a few steps to the run folder")
    timeout: float = Field(
        default=600.0, gt=0, description="seconds without progress after which a stalled run is ended"
    )
    max_bad_steps: Positive = Field(default=10, description="steps in a row that are not finite before the run stops")


class EvalConfig(Section):
    """How accuracy is measured."""

    batch_size: Positive = Field(default=128, description="images per rank")
    images: Positive | None = Field(
        default=None, description="evaluate a fixed random part of this many images; null: all"
    )
    every: Positive = Field(default=1, description="epochs between evaluations; the last epoch is always evaluated")
    labels: Literal["original", "real"] = Field(
        default="original", description="real: the reassessed labels of ImageNet"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp32", description="of the forward pass")
    ema: bool = Field(default=True, description="evaluate the averaged weights where there is an average")


class Config(Section):
    """A whole run: what is trained on what, how, and where the results go."""

    model: ModelConfig
    data: DataConfig
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    output: Path = Field(description="folder of the run; without it runs/ and the name of the config file")

    @model_validator(mode="after")
    def _what_is_measured_is_saved(self) -> Self:
        if self.train.ema_decay is not None and self.eval.ema != self.train.save_ema:
            evaluated, saved = ("averaged" if ema else "plain" for ema in (self.eval.ema, self.train.save_ema))
            raise ValueError(
                f"eval.ema={str(self.eval.ema).lower()} evaluates the {evaluated} weights, train.save_ema="
                f"{str(self.train.save_ema).lower()} saves the {saved} ones: set both alike, so that the figure is of "
                f"the file"
            )
        return self
