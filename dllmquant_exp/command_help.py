"""What `--help` behind a subcommand prints; `plan` and `train` have theirs with their own code."""

from dllmquant_exp.probes.arguments import help_text as figures_help

HELP = {
    "report": """\
python -m dllmquant_exp report [sweep=default] [runs_dir=runs] [model=...] [format=table|csv]
python -m dllmquant_exp report table=table1 [setting=value ...]
python -m dllmquant_exp report claims [setting=value ...]
python -m dllmquant_exp report audit [setting=value ...]

Prints what result files say, and runs nothing. The first form prints a sweep's tables. The others
write files too: the paper's tables beside its numbers (table1 to table6, or all), a verdict on each
of the paper's claims, and what does not add up in its printed numbers. Exit status 1: cells are
missing, failed or unreadable; they are named.

  runs_dir=runs    where results are
  sweep=tables     whose (default without table=, claims and audit: default)
  model=...        of these models alone, separated by commas (not for audit)
  folder=...       where files go (default: <runs_dir>/<sweep>/report)
  format=all       or some of markdown, latex, csv, html, separated by commas (not for audit)
  tracking=off     offline or online: tables go to W&B too (table= only)

  python -m dllmquant_exp report sweep=seeds
  python -m dllmquant_exp report table=all
  python -m dllmquant_exp report claims
""",
    "figures": figures_help(),
    "random-checkpoint": """\
python -m dllmquant_exp random-checkpoint architecture=llada|dream folder=DIR [setting=value ...]

Writes a small checkpoint with random weights in an official layout, to try things on.

  seed=0 d_model=64 n_layers=2 max_length=2048
  tokenizer_from=DIR    take the tokenizer of this checkpoint (default: a small one of its own)
""",
}
