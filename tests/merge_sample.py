"""A report on two merged adapters, made by hand."""

from gradience.reports.base.report import Stopwatch
from gradience.reports.merge import MergedModule, MergeParent, MergeReport


def merge_report() -> MergeReport:
    names = [f"model.layers.{layer}.self_attn.{name}_proj" for layer in range(2) for name in "qv"]
    modules = tuple(
        MergedModule(
            name=name,
            parent_ranks=(16, None if place else 8),
            rank=16,
            norm=1.5,
            error=0.1,
        )
        for place, name in enumerate(names)
    )
    parents = tuple(
        MergeParent(
            name=name,
            path=f"adapters/{name}",
            sha256=digit * 64,
            weight=1.0,
            modules=count,
            smallest_rank=rank,
            largest_rank=rank,
            cosine=0.7,
            projection=1.0,
        )
        for name, digit, count, rank in (("arithmetic", "a", 4, 16), ("sorting", "b", 1, 8))
    )
    return MergeReport(
        parents=parents,
        base="HuggingFaceTB/SmolLM2-135M-Instruct",
        output_path="merged",
        output_sha256="c" * 64,
        method="svd",
        density=None,
        seed=None,
        requested_rank=16,
        saved="refuse",
        largest_rank=16,
        dtype="F32",
        error=0.1,
        bytes=295_912,
        architecture="LlamaForCausalLM",
        runtimes=(),
        modules=modules,
        notes=(),
        run=Stopwatch("gradience merge arithmetic sorting --method svd --rank 16 -o merged").run_info(),
    )
