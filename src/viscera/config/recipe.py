"""Recipe: all settings of one system."""

from dataclasses import dataclass, field
from typing import Literal

from viscera.config.augmentation import Augmentation, SliceAugmentation
from viscera.config.context import Context
from viscera.config.inference import Inference, Postprocessing, SliceInference
from viscera.config.losses import AddedBoundaryLoss, Loss
from viscera.config.networks import NetworkShape, Softmax, UNetShape
from viscera.config.preparation import Contrast, Intensity, Preparation, ResizedSlices, Window
from viscera.config.ranges import STRICT
from viscera.config.sampling import Sampling, SliceSampling
from viscera.config.training import Training
from viscera.errors import SettingError
from viscera.labels import SPACES, LabelSpace


@dataclass(frozen=True)
class Recipe:
    """Every setting of one system; ``viscera.find_recipe`` overrides some of them.

    Example:
        >>> import viscera
        >>> recipe = viscera.find_recipe("viscera2d-16")
        >>> recipe.network.widths, recipe.training.epochs, recipe.space.organs[:2]
        ((16, 32, 64, 128, 256), 30, ('urinary_bladder', 'colon'))
    """

    __pydantic_config__ = STRICT

    name: str = "zhang2d"
    """The recipe's name, for tables and files."""
    about: str = ""
    """What it is, in a line."""
    label_space: str = "zhang12"
    """The organs to tell apart: see `viscera info organs`."""
    preparation: Preparation = ResizedSlices()
    """What is done once to every scan."""
    contrast: Contrast = Contrast()
    """Whether and how grey levels are enhanced first."""
    intensity: Intensity = Window()
    """HU to network input."""
    network: NetworkShape = UNetShape()
    """The architecture."""
    context: Context | None = None
    """A small 3D network that sees the whole scan first, for a network of slices; None: there is none."""
    softmax: Softmax = Softmax()
    """Its last layer."""
    loss: Loss = AddedBoundaryLoss()
    """What is minimised."""
    sampling: Sampling = SliceSampling()
    """Which slices or patches are visited."""
    augmentation: Augmentation = SliceAugmentation()
    """Random changes of each training slice or patch."""
    training: Training = Training()
    """Optimizer, schedule and length."""
    inference: Inference = SliceInference()
    """From network output to label map."""
    postprocessing: Postprocessing = field(default_factory=Postprocessing)
    """What is tidied in the label map."""

    @property
    def dimensions(self) -> Literal[2, 3]:
        """Of what the network sees: slices, perhaps with neighbours, or volumes."""
        return self.network.dimensions

    @property
    def reach(self) -> int:
        """How many neighbours on either side are seen with a slice."""
        return self.network.slices // 2

    @property
    def channels(self) -> int:
        """Of the network's input: the slices that are seen at once, and the context's organs."""
        return self.network.slices + (0 if self.context is None else len(self.space.organs))

    @property
    def required_context(self) -> Context:
        """The context, for what cannot do without.

        Raises:
            SettingError: There is none.
        """
        if self.context is None:
            raise SettingError(f"recipe '{self.name}' has no context")
        return self.context

    @property
    def space(self) -> LabelSpace:
        """The label space by its name.

        Raises:
            SettingError: No such space.
        """
        if self.label_space not in SPACES:
            raise SettingError(f"no label space '{self.label_space}'", f"Choose one of {', '.join(SPACES)}.")
        return SPACES[self.label_space]
