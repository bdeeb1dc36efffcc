"""Tiny annotations in the five official layouts, and well-formed predictions for them, for tests to spoil."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .conftest import dump

CIRCO_IDS = list(range(100, 160))
CIRR_NAMES = [f"dev-{i}-0-img0" for i in range(60)]
ASINS = [f"B{i:09d}" for i in range(60)]


def circo(root: Path, queries: int = 4) -> Path:
    """Query i: reference 100 + i, ground truths 110 + i and 120 + i, target the first."""
    entries = [
        {
            "id": i,
            "reference_img_id": 100 + i,
            "target_img_id": 110 + i,
            "gt_img_ids": [110 + i, 120 + i],
            "relative_caption": f"is different in way {i}",
            "shared_concept": f"a thing {i}",
            "semantic_aspects": ["addition", "viewpoint"] if i else ["negation"],
        }
        for i in range(queries)
    ]
    dump(
        root / "COCO2017_unlabeled" / "annotations" / "image_info_unlabeled2017.json",
        {"images": [{"id": i, "file_name": f"{i:012d}.jpg"} for i in CIRCO_IDS]},
    )
    return dump(root / "annotations" / "val.json", entries).parent


def circo_predictions(queries: int = 4) -> dict[str, Any]:
    return {str(i): CIRCO_IDS[:50] for i in range(queries)}


def cirr(root: Path, queries: int = 4) -> Path:
    """Query i: reference dev-i, target dev-(10 + i), the set of dev-i and five further names."""
    entries = []
    for i in range(queries):
        members = [CIRR_NAMES[i], *(CIRR_NAMES[10 * j + i] for j in range(1, 6))]
        entries.append(
            {
                "pairid": 12060 + i,
                "reference": CIRR_NAMES[i],
                "caption": f"way {i}",
                "target_hard": CIRR_NAMES[10 + i],
                "target_soft": {CIRR_NAMES[10 + i]: 1.0, CIRR_NAMES[20 + i]: 0.5, CIRR_NAMES[30 + i]: -1.0},
                "img_set": {"id": i, "members": members, "reference_rank": 3, "target_rank": 5},
            }
        )
    dump(root / "captions" / "cap.rc2.val.json", entries)
    dump(root / "image_splits" / "split.rc2.val.json", {name: f"./dev/{name}.png" for name in CIRR_NAMES})
    return root


def cirr_predictions(metric: str = "recall", queries: int = 4) -> dict[str, Any]:
    """Every list without its reference, in the order of the split."""
    lists: dict[str, Any] = {"version": "rc2", "metric": metric}
    for i in range(queries):
        names = [n for n in CIRR_NAMES if n != CIRR_NAMES[i]]
        members = [CIRR_NAMES[10 * j + i] for j in range(1, 6)]
        lists[str(12060 + i)] = names[:50] if metric == "recall" else members[:3]
    return lists


def fashioniq(root: Path, categories: tuple[str, ...] = ("dress", "shirt", "toptee"), queries: int = 4) -> Path:
    """Query i: reference ASIN i, target ASIN 10 + i; the split has 60 images, references and targets are 8 of them."""
    for name in categories:
        entries = [
            {"candidate": ASINS[i], "target": ASINS[10 + i], "captions": [f"is {i} times longer.", "has  dots"]}
            for i in range(queries)
        ]
        dump(root / "captions" / f"cap.{name}.val.json", entries)
        dump(root / "image_splits" / f"split.{name}.val.json", ASINS)
    return root


def fashioniq_predictions(categories: tuple[str, ...] = ("dress", "shirt", "toptee"), queries: int = 4) -> dict[str, Any]:
    return {name: [ASINS[:50] for _ in range(queries)] for name in categories}


def genecis(root: Path, tasks: tuple[str, ...] = ("focus_attribute", "change_object"), templates: int = 4) -> Path:
    for task in tasks:

        def picture(i: int, task: str = task) -> dict[str, Any]:
            if task.endswith("object"):
                return {"val_image_id": 200 + i}
            return {"image_id": str(300 + i), "instance_bbox": [4.0 + i, 5, 20.5, 10]}

        dump(
            root / f"{task}.json",
            [
                {
                    "condition": f"condition {i}",
                    "reference": picture(i),
                    "target": picture(10 + i),
                    "gallery": [picture(20 + i + j) for j in range(4)],
                }
                for i in range(templates)
            ],
        )
    return root


def genecis_predictions(tasks: tuple[str, ...] = ("focus_attribute", "change_object"), templates: int = 4) -> dict[str, Any]:
    return {task: [[1, 0, 2, 3, 4] for _ in range(templates)] for task in tasks}


def mmeb(root: Path) -> Path:
    return dump(
        root / "tasks.json",
        [
            {"dataset": "ImageNet-1K", "meta_task": "classification", "split": "IND", "queries": 4},
            {"dataset": "N24News", "meta_task": "classification", "split": "IND", "queries": 4},
            {"dataset": "ImageNet-A", "meta_task": "classification", "split": "OOD", "queries": 4},
            {"dataset": "GQA", "meta_task": "vqa", "split": "OOD", "queries": 4},
        ],
    )


def mmeb_predictions() -> dict[str, Any]:
    """25, 50, 75 and 100 percent."""
    hit, miss = [0, 1, 2], [1, 0, 2]
    return {
        "ImageNet-1K": [hit, miss, miss, miss],
        "N24News": [hit, hit, miss, miss],
        "ImageNet-A": [hit, hit, hit, miss],
        "GQA": [hit] * 4,
    }


LAYOUTS = {
    "circo": (circo, circo_predictions),
    "cirr": (cirr, cirr_predictions),
    "fashioniq": (fashioniq, fashioniq_predictions),
    "genecis": (genecis, genecis_predictions),
    "mmeb": (mmeb, mmeb_predictions),
}
