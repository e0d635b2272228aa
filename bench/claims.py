"""How often each rule for a claim or a statement is wrong, by simulation: `python bench/claims.py > docs/claims.md`.

Tables are drawn {replicates} times without an effect. What that means depends on the rule: no difference between
kinds, arms, networks or initialisations; layers, kernels or sources whose values are exchangeable; or, where a drop is
compared with `verdict.tolerance` or another margin, a drop exactly there. Trainings differ by an SD of {seed:g} Dice,
patients by {patient:g}, a kernel's drop from training to training by {kernel:g}, each single value by {rest:g}. An
answer that is wrong then must be given in at most 5 % (the simulation's own error: {error:.1%}). "Rightly" is how often
a large effect is found, in a fifth as many tables; where it stays near 0, n cannot tell and the answer is `undecided`.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicates", type=int, default=1000)
    n = parser.parse_args().replicates
    sizes = {"seed": SEED, "patient": PATIENT, "kernel": KERNEL, "rest": REST, "error": 2 * (0.05 * 0.95 / n) ** 0.5}
    print(HEAD.format(replicates=n, **sizes) + markdown_table(error_table(n)))


if __name__ == "__main__":
    main()
