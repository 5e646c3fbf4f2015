"""The only import of torchvision."""

from types import ModuleType


def import_torchvision() -> ModuleType:
    """Import torchvision late: runs on digits do not need it.

    Its wheel registers its C++ operators only with a CUDA build of torch, and the import fails where two of them are missing.
    Declaring them is enough for data sets and transforms.
    """
    import torch

    try:
        import torchvision
    except RuntimeError as error:
        if "nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)
        import torchvision
    return torchvision


_kept: list = []  # a Library undefines its operators when garbage-collected
