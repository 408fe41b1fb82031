"""The commented example configurations that ``fedmq init`` writes."""

from __future__ import annotations

from pathlib import Path

AGGREGATOR_TOML = """\
# An aggregator: one per federation, next to the broker. This file is for a try on one machine; where devices are on
# others, fedmq provision writes one with certificates and keys.
#
#   fedmq-aggregator run --config aggregator.toml            starts it
#   fedmq-aggregator run --config aggregator.toml --check    only checks this file
#
# What is commented out is the default.

[aggregator]
federation = "demo"                     # letters, digits, _ . and -; part of every topic
state_dir = "aggregator-state"          # everything that must survive; relative to where the command is started
# seed = 0                              # of the initial, untrained model

[broker]
host = "127.0.0.1"
port = 1883
# protocol = "auto"                     # auto (5, else 3.1.1), 5, 3.1.1
# keepalive_s = 60                      # a connection that is silent for longer is taken for dead
# username = ""
# password_file = ""                    # the password is the file's first line

# [broker.tls]                          # required for a broker on another machine; paths are relative to this file
#   ca = "ca.pem"                       # who vouches for the broker
#   certificate = "aggregator.pem"
#   key = "aggregator.key"              # chmod 600

[model]                                 # devices build it from this description; no code is sent
kind = "mlp"                            # softmax, linear, mlp; CNNs, GRU, autoencoder: docs/models.md
inputs = 64                             # features per example
hidden = [32]                           # mlp only: neurons per hidden layer
outputs = 10                            # classes, or values of a regression
task = "classification"                 # classification, regression
# activation = "relu"                   # relu, tanh

# How devices make examples of what their sensors say; without this table they bring ready examples. More in
# docs/features.md. 7 features of 3 channels make 21 inputs: [model] has to say so.
# [features]
# channels = ["ax", "ay", "az"]         # as the devices' sources call them
# window = 128                          # rows
# stride = 64                           # from one window to the next
# max_gap_s = 1.0                       # a longer gap in time ends a window
# rate_hz = 50.0                        # rows per second, where bands are told in Hz
# compute = ["mean", "deviation", "minimum", "maximum", "change", "fft:0.5-3Hz", "fft:3-10Hz"]
# label = "majority"                    # of the rows of a window: last, majority, any, mean

[training]                              # what a device does with the model, once per version
epochs = 1
batch_size = 16
optimizer = "sgd"                       # sgd, adam
learning_rate = 0.1
# momentum = 0.0
# proximal = 0.0                        # FedProx: pulls back to the version that training started from
# clip_norm = 0.0                       # bound on a gradient's norm; 0: none
# max_steps = 0                         # 0: as many as the epochs take

[participation]
codec = "int8"                          # of the updates: f32, f16, int8 (a quarter of f32)
# sampling_fraction = 1.0               # share of the fleet that trains a version; devices draw lots by themselves
# contributions_per_version = 1         # so that fast devices do not drown slow ones

[aggregation]
staleness = "polynomial"                # constant, polynomial, hinge: what an update of an older version still counts
# staleness_exponent = 0.5              # polynomial: (1 + versions behind) ** -0.5
# max_staleness = 20                    # older updates are refused
# server_optimizer = "plain"            # plain, momentum, adam
# server_learning_rate = 1.0

[schedule]                              # a new version as soon as one of these says so
goal = 4                                # ... so many updates are buffered; 0: not by count
# interval_s = 0.0                      # ... so many seconds have passed; 0: not by time
# cron = ""                             # ... the clock says so: "*/10 * * * *"
# quorum = 1                            # but never of fewer updates than this

# [admission]
# max_update_norm = 1000.0              # longer updates are refused
# clip_factor = 10.0                    # those longer than so many times the usual are shortened; 0: none
# messages_per_s = 100.0                # of one device, in the long run; 0: no limit
# quarantine_after = 20                 # so many refusals in a row, and a device has to be released; 0: never

# [evaluation]
# path = "evaluation.npz"               # arrays x (examples, features) and y; each version is measured on them
# max_accuracy_drop = 1.0               # a version that loses more accuracy than this is withheld; 1.0: never

# [canary]
# fraction = 0.0                        # so large a part of the fleet tries each version before it is out; 0: none
# min_answers = 3                       # so many devices must have compared it with the current one
# max_worse = 0.02                      # by how much accuracy may fall; worse ones are withdrawn

[downlink]
delta_codec = "int8"                    # devices take a version as a step from the one before: a quarter of the bytes
# encoding = "f32"                      # of whole models: f32, f16 (then without delta_codec)
# keep_versions = 3                     # on the broker; the aggregator's own store keeps more

# [metrics]
# interval_s = 5.0
"""

AGENT_TOML = """\
# An agent: one per device, with data of its own. This file is for a try on one machine; elsewhere a device gets its
# file, with certificate and keys, from fedmq provision and fedmq-agent enroll.
#
#   fedmq-agent run --config agent.toml            starts it
#   fedmq-agent run --config agent.toml --check    only checks this file
#
# What is commented out is the default.

[device]
id = "device-1"                         # letters, digits, _ . and -; another one for every device
federation = "demo"                     # as in the aggregator's file
state_dir = "device-1-state"            # updates that wait to be sent, and the model; must survive a power cut

[broker]
host = "127.0.0.1"
port = 1883
# protocol = "auto"                     # auto (5, else 3.1.1), 5, 3.1.1
# keepalive_s = 60                      # longer than a chunk takes on this device's line
# username = ""
# password_file = ""                    # the password is the file's first line

# [broker.tls]                          # required for a broker on another machine; paths are relative to this file
#   ca = "ca.pem"                       # who vouches for the broker
#   certificate = "device-1.pem"
#   key = "device-1.key"                # chmod 600

# A device that collects its examples from sensors has tables [sources.NAME] instead of a path: docs/operations.md.
[data]
path = "samples.npz"                    # .npz with arrays x (examples, features) and y, or .csv with a header line
# label = "label"                       # csv only: the column to be learned
# holdout_fraction = 0.2                # never trained on: measures the model on this device
# watch_s = 30.0                        # how often the file is looked at for new examples; 0: never
# min_examples = 1                      # no training with fewer

[training]
# step_interval_s = 0.0                 # a step starts no sooner than this after the last: keeps a small board cool
# max_step_s = 600.0                    # a step that takes longer counts as hung, where systemd watches
min_interval_s = 10.0                   # rest between two trainings; 0: as often as versions come, many times a second

# [outbox]
# max_updates = 16                      # when full, the oldest update is given up
# receipt_timeout_s = 20.0              # then it is sent again, less and less often, ...
# resend_max_s = 600.0                  # ... but at least this often
# chunk_bytes = 65536                   # smaller for slow lines

# [sleep]
# awake_s = 0.0                         # 0: never sleeps
# asleep_s = 0.0

# [metrics]
# interval_s = 30.0

# When this board can spare a training; 0 or []: no matter.
# [policy]
# mains_only = false
# min_battery_percent = 30.0            # on battery
# max_cpu_c = 80.0                      # goes on 5 degrees below
# max_load = 0.0                        # a core, without our own training; 0.7 leaves the board to its main job
# min_free_memory_bytes = 33554432
# min_free_disk_bytes = 67108864
# allowed_hours = []                    # ["22:00-06:00"], local time
# quiet_hours = []
# min_new_examples = 0                  # rows that the file must have gained since the last training
# metered_interfaces = []               # ["wwan*", "ppp*"]: no training there, ...
# send_on_metered = true                # ... but updates are sent
"""

EXAMPLES = {"aggregator.toml": AGGREGATOR_TOML, "agent.toml": AGENT_TOML}


def write_examples(folder: Path, *, overwrite: bool = False) -> list[Path]:
    """Write both files into the folder, which is made when missing, and return their paths.

    Raise ``FileExistsError``, before anything is written, when one is there already, unless told to overwrite.
    """
    paths = [folder / name for name in EXAMPLES]
    there = [str(path) for path in paths if path.exists()]
    if there and not overwrite:
        raise FileExistsError(", ".join(there))
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        path.write_text(EXAMPLES[path.name], encoding="utf-8")
    return paths
