"""From the words of a command line to one checked experiment.

folder           where options lie: ours, and those that a user brings
overrides        the words, read once
tables           `table=all` and `controls=on`: the sweeps of one call
help             what `--help` prints
command          a subcommand: its settings, its help, its words
experiment       a composed configuration, checked: what a job is
quantized_model  its model: checkpoint, method, bits, what is calibrated on, components
saved_model      a model that `save=` wrote, in the place of all these
task_config      its tasks, and how they are decoded
rows             which row of the tables it is
identity         its configuration, hash and folder, and the keys of what it shares
"""
