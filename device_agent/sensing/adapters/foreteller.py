"""Predictions out: a thread that asks the newest model about each new window, and one more while a model is exchanged.

NumPy is imported here, in these threads, once there is a model: a device that makes predictions has it in memory.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from device_agent.adapters.allocator import before_numpy
from device_agent.adapters.model_cache import CacheError
from device_agent.sensing.predictions import limit_of, names_of, prediction
from device_agent.sensing.recent import Recent
from protocol.adapters.mqtt import MqttLink

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from device_agent.sensing.adapters.serving import Exchange, Served
    from device_agent.sensing.rows import Row
    from device_agent.settings import AgentSettings
    from protocol.link import LinkEvent

log = logging.getLogger("fedmq.predictions")

MAX_WAITING = 2000
"""Rows; of those that come faster than they can be looked at, the latest are left out."""


class Foreteller:
    """From rows to predictions. Hand it rows and say when there is another model, from any thread."""

    def __init__(self, settings: AgentSettings, open_model: Callable[[], BinaryIO]) -> None:
        """``open_model`` returns the file of the newest model, or raises ``CacheError``."""
        self._settings = settings
        self._told = settings.predictions
        self._open_model = open_model
        self._rows: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
        self._fresh = threading.Event()
        self._stop = False
        self._served: Served | None = None
        self._recent: Recent | None = None
        self._exchange: Exchange | None = None
        self._not_before = -math.inf
        self.made = 0
        self.dropped = 0
        """Rows that came too fast."""
        self.trouble = ""
        """Why there are no predictions; empty when there are, or nothing has come yet."""
        labels = [table.labels for table in settings.sources.values()]
        self._limit_said = ""
        self._names = names_of(settings.predictions, labels)
        client_id = f"fedmq-{settings.device.federation}-{settings.device.id}-predictions"
        self._link = MqttLink(settings.predictions.broker, client_id, self._heard)
        self._serving = threading.Thread(target=self._serve, name="predictions", daemon=True)
        self._loading = threading.Thread(target=self._load, name="predictions-model", daemon=True)

    def start(self) -> None:
        """Begin. Raise ``ConfigurationError`` when a password file cannot be read."""
        self._link.start()
        self._serving.start()
        self._loading.start()
        self.model_changed()

    def close(self) -> None:
        """End, without waiting for a model that is being loaded."""
        self._stop = True
        self._rows.put(None)
        self._fresh.set()
        self._serving.join(1.0)
        self._link.stop(0.5)

    def row(self, row: Row) -> None:
        """Take in a row (a ``RowListener``)."""
        if self._rows.qsize() < MAX_WAITING:
            self._rows.put(row)
        else:
            self.dropped += 1

    def model_changed(self) -> None:
        """Go over to the model that is in the cache now, as soon as it is ready; the one before answers until then."""
        self._fresh.set()

    @property
    def alive(self) -> bool:
        """Whether the threads are there."""
        return not self._serving.ident or (self._serving.is_alive() and self._loading.is_alive())

    # -- asking

    def _serve(self) -> None:
        while (row := self._rows.get()) is not None:
            try:
                self._take(row)
            except Exception:
                # A fault of ours must not end predictions for good, nor the agent.
                log.exception("no prediction")

    def _take(self, row: Row) -> None:
        served = self._served
        if served is None:
            return
        if self._recent is None or self._recent.cut != served.cut:
            self._recent = Recent(served.cut)
        if not self._recent.add(row):
            return
        now = time.monotonic()
        if now < self._not_before:
            return
        answer = served.ask(self._recent)
        if answer is None:
            return
        self._not_before = now + self._told.interval_s
        payload = prediction(
            answer.output,
            what=served.what,
            time=answer.ends,
            device_id=self._settings.device.id,
            version=served.version,
            by=served.by,
            names=self._names,
            limit=limit_of(self._told, served.threshold),
        )
        if self._link.publish(self._told.topic, payload, qos=self._told.qos, retain=self._told.retain):
            self.made += 1

    # -- exchanging the model

    def _load(self) -> None:
        while not self._stop:
            self._fresh.wait()
            self._fresh.clear()
            self._go_over_safely()

    def _go_over_safely(self) -> None:
        try:
            if not self._stop:
                self._go_over()
        except Exception as exc:
            self._say(f"{type(exc).__name__}: {exc}")
            log.exception("the model for predictions cannot be used")

    def _go_over(self) -> None:
        try:
            self._open_model().close()
        except CacheError:
            return  # nothing to predict by: NumPy can wait
        before_numpy()
        # Imports NumPy.
        from device_agent.sensing.adapters.serving import Exchange, ServingError  # noqa: PLC0415 - see above

        if self._exchange is None:
            folder = Path(self._settings.device.state_dir)
            trial_s = self._settings.backbone.trial_s
            self._exchange = Exchange(self._open_model, folder, tflite=self._told.tflite, trial_s=trial_s)
        try:
            self._served = self._exchange.newest() or self._served
        except ServingError as exc:
            self._say(str(exc))
            return
        self._say("")
        self._say_limit(self._served)

    def _say(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            log.warning("no predictions by the newest model: %s", trouble)
        self.trouble = trouble

    def _say_limit(self, served: Served | None) -> None:
        if served is None or served.what != "error":
            return
        limit = limit_of(self._told, served.threshold)
        if limit is None:
            text = "anomalies: there is no threshold yet (the aggregator's [anomaly]); only errors are published"
        elif limit.version is None:
            text = f"anomalies: errors above {limit.error:g}, as set on this device"
        else:
            text = f"anomalies: errors above {limit.error:g}, measured on version {limit.version}"
        if text != self._limit_said:
            log.info("%s", text)
            self._limit_said = text

    def _heard(self, _event: LinkEvent) -> bool:
        return True
