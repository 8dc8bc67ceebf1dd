"""Sizes: ranks, scales and parameter counts of every adapter, by its config and by the header of its weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gradience.adapters.config import read_config
from gradience.adapters.keys import config_name, parse_key
from gradience.adapters.locate import WEIGHTS
from gradience.adapters.tensors import TensorEntry, read_header, stored_header
from gradience.bench.plan.variants import PROBE
from gradience.bench.verdict.facts import HEADER, SIZES, SeedFacts, StoredAdapter, changed_scales
from gradience.bench.verify.findings import Findings, Link
from gradience.errors import InputError
from gradience.plan.modules import Ranks
from gradience.reading import MAX_DATA_BYTES, read_file
from gradience.reports.training import ADAPTER, REPORT
from gradience.words import counted


def check_sizes(facts: SeedFacts, findings: Findings, *, inside: str = "") -> None:
    """Compare the size that is published for each adapter with its config and with the header of its weights.

    Of weights that were not kept, the header recorded when they were written is read. inside: prefix of the names of
    this seed's files.
    """
    if facts.probe is None or facts.audit is None:
        return
    full: Ranks = {layer.name: layer.r for layer in facts.audit.layers}
    recorded = unknown = 0
    place = inside or "the run"
    with findings.check("sizes", "L1", f"{place}: ranks, scales and parameter counts of adapters"):
        for outcome in (facts.probe, *facts.outcomes):
            adapter, planned = outcome.adapter, outcome.planned
            if adapter is None:
                continue
            ranks = full if planned.name == PROBE or not adapter.lora else planned.ranks
            at = f"{inside}{planned.name}/{adapter.folder.parent.name}/"
            try:
                if not planned.as_recorded:
                    findings.compare(_of_config(facts.probe.adapter, adapter, ranks), at)
                has_weights = (adapter.folder / WEIGHTS).is_file()
                header = _header_of(adapter)
                if header is not None:
                    findings.compare(_of_header(header, adapter, {} if planned.as_recorded else ranks), at)
            except InputError as error:
                findings.mismatch(at, str(error))
                continue
            recorded += header is not None and not has_weights
            unknown += header is None
    if recorded:
        findings.gap(
            f"{place}: sizes of {counted(recorded, 'adapter')}: by recorded headers, since the weights were not kept;"
            " nothing shows that a header belongs to the digest"
        )
    if unknown:
        findings.gap(
            f"{place}: sizes of {counted(unknown, 'adapter')}: by configs and recorded counts only, since there are"
            " neither weights nor headers"
        )


def _header_of(adapter: StoredAdapter) -> Mapping[str, TensorEntry] | None:
    """Return the tensors in the weights, or in their recorded header; None if there is neither."""
    weights, header = adapter.folder / WEIGHTS, adapter.folder.parent / HEADER
    if weights.is_file():
        return read_header(weights, stored_header(weights), weights.stat().st_size)[0]
    if not header.is_file():
        return None
    return read_header(header, read_file(header, MAX_DATA_BYTES), adapter.bytes)[0]


def _of_config(probe: StoredAdapter | None, adapter: StoredAdapter, ranks: Ranks) -> Iterator[Link]:
    path, file = adapter.folder / "adapter_config.json", f"{ADAPTER}/adapter_config.json"
    if not path.is_file():
        return
    config = read_config(path)
    for module, rank in ranks.items():
        if rank:  # of a module at rank 0 there is nothing
            yield file, f"rank of {module}", config.rank_of(config_name(module)), rank
    if probe is not None and (probe.folder / path.name).is_file():
        for module, before, after in changed_scales(read_config(probe.folder / path.name), config, ranks):
            yield file, f"scale of {module}", after, before


def _of_header(header: Mapping[str, TensorEntry], adapter: StoredAdapter, ranks: Ranks) -> Iterator[Link]:
    weights = f"{ADAPTER}/{WEIGHTS}"
    keys = {name: parse_key(name) for name in header}
    stored = {
        key.module: header[name].shape[0]
        for name, key in keys.items()
        if key.role in ("A", "embedding_A") and not key.ghost and header[name].shape
    }
    for module, rank in ranks.items():
        if module in stored or not rank:  # the experts of a block share one tensor under another name
            yield weights, f"rank of {module}", stored.get(module, 0), rank
    lora = sum(entry.params for name, entry in header.items() if "lora_" in name)
    report = adapter.training
    if report is not None:
        yield REPORT, "lora_params", report.lora_params, lora
    else:
        other = sum(entry.params for entry in header.values()) - lora
        yield SIZES, "", [adapter.lora_params, adapter.other_params], [lora, other]
