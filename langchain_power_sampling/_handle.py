"""The model that an object stands for: shared by its copies, found again by its pickles."""

from __future__ import annotations

import uuid

from power_sampling import Config, ConfigurationError, ModelConfig, PowerSampler

__all__ = ["Handle"]


class Handle:
    """A model and the settings it goes by. Copies share it. A pickle carries the settings alone, which find the
    weights again; for a model that was handed over loaded they would not, so pickling that raises ConfigurationError.
    """

    def __init__(self, config: ModelConfig, loaded: PowerSampler | None = None) -> None:
        self.sampler = loaded or PowerSampler.of(Config.model_construct(**dict(config)))
        self.config = config.model_copy(deep=True)  # mappings among an object's fields may be changed in place
        self.identity = uuid.uuid4().hex if loaded else None  # no settings tell one loaded model from another
        self._others: dict[str, Handle] = {}

    def under(self, config: ModelConfig) -> Handle:
        """The handle that other settings ask for. It lives as long as this one, because the copies that
        `configurable_fields` makes live for one call each.
        """
        if config == self.config:
            return self
        if self.identity:
            changed = [name for name, value in config if value != getattr(self.config, name)]
            raise ConfigurationError(
                f"{', '.join(changed)}: cannot be changed on an object made by from_model, whose model is already "
                "loaded; build another object."
            )
        key = config.model_dump_json()
        return self._others.get(key) or self._others.setdefault(key, Handle(config))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Handle) and (self.config, self.identity) == (other.config, other.identity)

    def __hash__(self) -> int:
        return hash((self.config.model, self.identity))

    def __deepcopy__(self, memo: object) -> Handle:
        return self

    def __reduce__(self) -> tuple[type[Handle], tuple[ModelConfig]]:
        if self.identity:
            raise ConfigurationError(
                f"{self.config.model!r} was handed over as a loaded model (from_model), and weights are never pickled. "
                "Build the object from a hub id or a folder, or call from_model in the other process."
            )
        return Handle, (self.config,)
