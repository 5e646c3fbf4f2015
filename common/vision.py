"""The one import of torchvision."""

from types import ModuleType


def import_torchvision() -> ModuleType:
    """torchvision; imported late because runs on digits never need it.

    Its wheel registers C++ operators only beside a CUDA build of torch, and importing it fails where two of them are unknown.
    Naming them is enough for data sets and transforms.
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


_kept: list = []  # a Library undefines its operators when it is collected
