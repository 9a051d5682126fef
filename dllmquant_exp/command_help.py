"""What `--help` behind a subcommand prints; `plan` and `train` have theirs with their own code."""

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
    "figures": """\
python -m dllmquant_exp figures [figure=all] [model=micro_llada] [setting=value ...]

Measures a model for each figure, keeps the numbers under <runs_dir>/figures and draws them as PNG
and PDF. What is recorded already is drawn again without measuring. Figures 1 to 6 are the paper's;
7 (ablation) and 8 (paper and ours) are drawn from the results of a sweep; 9 is the sensitivity of
each layer.

  figure=all       or some of 1 to 9, separated by commas
  prompts=64       the task's first ones (1000 for a published checkpoint, as in the paper); claims
                   need 6, and with n of them no p-value is below 2^(1-n)
  task=...         where they are from (an embedded model: micro_gsm8k; else piqa)
  gen_length, steps, blocks    of the decodes (default: as long as those for calibration; 4 blocks)
  prompt=0         whose decode and attention figures 3 to 5 show
  layer=-1 head=0  of figure 3; -1 is the middle layer
  noise=0.5        figure 4's, as a share of the RMS of a block's output
  states=4         per prompt, for figure 9
  sweep=tables     whose results figures 7 and 8 show
  seed=0           of figure 2's calibration sets, of the unmasked positions that get figure 4's
                   noise, and of the tokens that figure 6 draws; seed=0,1,2 records each, and claims
                   then cover the choice of seed too

Common settings (runs_dir, device, threads, ...) are those of an experiment. A setting that
none of the chosen figures reads is refused. `report claims` is decided by figures recorded with a
model's own settings (but any number of prompts) and checkpoint, and names the others.

  python -m dllmquant_exp figures figure=2 model=micro_dream prompts=16
""",
    "random-checkpoint": """\
python -m dllmquant_exp random-checkpoint architecture=llada|dream folder=DIR [setting=value ...]

Writes a small checkpoint with random weights in an official layout, to try things on.

  seed=0 d_model=64 n_layers=2 max_length=2048
  tokenizer_from=DIR    take the tokenizer of this checkpoint (default: a small one of its own)
""",
}
