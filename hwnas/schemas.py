"""The names of the documents that hwnas writes, each with its version: ``hwnas.WHAT/VERSION``.

What a command prints with ``--json`` has the name of the command; most files in a run folder have that
of the command that wrote them. A version rises when an older reader would misread the document.
"""

from __future__ import annotations

# Documents that are read back.
NETWORK = "hwnas.network/1"
SEARCH = "hwnas.search/1"
PLAN = "hwnas.plan/1"
TRAIN = "hwnas.train/1"
RUN = "hwnas.run/1"  # the manifest of a run folder; `hwnas run` prints what it ran under the same name
ENGINE = "hwnas.engine/1"
FAKE_ENGINE = "hwnas.fake-engine/1"
LOCK = "hwnas.lock/1"
SESSIONS = "hwnas.sessions/1"
EVALUATION = "hwnas.evaluation/1"
CHECKPOINT = "hwnas.checkpoint/3"
DENSE = "hwnas.dense/4"
PREPARATION = "hwnas.preparation/1"
HOURNAS = "hwnas.hournas/2"
DEVICES = "hwnas.devices/1"  # names that a user gave to devices of other machines
ARCHITECTURE = "hwnas.architecture/1"  # a changed network of a user's
IMAGES = "hwnas.images/1"  # decoded ones, in the cache

# Documents that commands only print.
BENCH = "hwnas.bench/1"
BENCHMARK = "hwnas.benchmark/1"
COUNT = "hwnas.count/1"
DOCTOR = "hwnas.doctor/1"
ERROR = "hwnas.error/1"
EXPORT = "hwnas.export/1"
GPU_REPORT = "hwnas.gpu-report/2"
INIT = "hwnas.init/1"
MODEL_INSPECT = "hwnas.model.inspect/1"
PREDICT = "hwnas.predict/1"
PROFILE = "hwnas.profile/1"
QUICKSTART = "hwnas.quickstart/1"
REPLAY = "hwnas.replay/1"
REPORT = "hwnas.report/1"
RUNS = "hwnas.runs/1"
VERIFY = "hwnas.verify/1"
