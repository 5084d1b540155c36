"""Composition of the configs of a multirun's jobs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import suppress

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig

from clipdissect.utils.memo import Memo


class SharingLoader(ConfigLoaderImpl):
    """Hydra's loader; jobs of a multirun that choose the same files share one reading of them."""

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self._shared: Memo[DictConfig] = Memo(8)  # by the overrides that choose files

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        """Compose a job's config; `master_config` is the same for all calls."""
        load = super().load_sweep_config
        if master_config.hydra.searchpath:  # may hold groups that `_is_choice` doesn't know
            return load(master_config, sweep_overrides)
        parsed = OverridesParser.create().parse_overrides(sweep_overrides)
        values = [override for override in parsed if self._is_value(override)]
        if all(self._is_value(override) or self._is_choice(override) for override in parsed):
            chosen = [str(o.input_line) for o in parsed if not self._is_value(o)]
            with suppress(Exception):  # Hydra's own way finds the same, and names the override
                shared = self._shared.get(tuple(chosen), lambda: load(master_config, chosen))
                return _with_values(copy.deepcopy(shared), parsed, values)
        return load(master_config, sweep_overrides)

    def _is_value(self, override: Override) -> bool:
        """Return whether an override changes a key's value, after all files are read."""
        is_plain = override.type == OverrideType.CHANGE and not override.is_sweep_override()
        return is_plain and override.package is None and not self._is_choice(override)

    def _is_choice(self, override: Override) -> bool:
        """Return whether an override may choose a file; those of Hydra's settings count too."""
        key = override.key_or_group
        return override.is_hydra_override() or self.repository.group_exists(key)


def _with_values(
    config: DictConfig, parsed: Sequence[Override], values: list[Override]
) -> DictConfig:
    ConfigLoaderImpl._apply_overrides_to_config(values, config)
    task = [override for override in parsed if not override.is_hydra_override()]
    job = config.hydra.job
    config.hydra.overrides.task = [override.input_line for override in task]
    job.override_dirname = get_overrides_dirname(task, **job.config.override_dirname)
    return config
