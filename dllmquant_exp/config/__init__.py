"""From the words of a command line to one checked experiment.

folder           where options lie: ours, and those that a user brings
own_options      how a user's options are told from ours
overrides        the words, read once
tables           `table=all` and `controls=on`: the sweeps of one call
help             what `--help` prints
command          a subcommand: its settings, its help, its words
experiment       from a composed configuration to a checked job
quantized_model  its model: checkpoint, method, bits, what is calibrated on, components
saved_model      a model that `save=` wrote, in the place of all these
task_config      its tasks, and how they are decoded
rows             which row of the tables it is
identity         the job: settings, the configuration, hash and folder of its cells, keys of caches
"""
