"""What can go wrong, as types. Every message says what was wanted, what came, and what to do."""


class MaskRCNNError(Exception):
    """The root: catches everything this package raises on purpose."""


class ShapeError(MaskRCNNError, ValueError):
    """A tensor has the wrong shape or dtype."""


class ConfigError(MaskRCNNError, ValueError):
    """A setting is unknown, or its value cannot work."""


class ImageError(MaskRCNNError, ValueError):
    """An image cannot be read, or does not fit the model."""


class DataError(MaskRCNNError, ValueError):
    """Annotations cannot be read, or contradict themselves."""


class WeightsError(MaskRCNNError, ValueError):
    """A weight file is damaged, of an unknown kind, or does not fit."""


class DownloadError(MaskRCNNError, OSError):
    """A file could not be fetched, or is not the file that was promised."""


class MissingExtraError(MaskRCNNError, ImportError):
    """An optional dependency is not installed; the message names the extra."""
