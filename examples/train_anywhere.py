"""One training script for a CPU, a GPU, a machine with eight of them, and several hosts: the same file, unchanged.

    python examples/train_anywhere.py --recipe digits --out runs/digits

uses all devices that JAX finds. On several hosts every one runs it, on one folder that all of them see, and JAX brings them
together: under SLURM

    srun --nodes 4 --ntasks-per-node 1 --gpus-per-node 8 \\
        python examples/train_anywhere.py --recipe cifar10-random --nets 32 --out /shared/cifar10 --distributed

on a Cloud TPU slice

    gcloud compute tpus tpu-vm ssh NAME --worker all --command \\
        "python examples/train_anywhere.py --recipe cifar10-random --nets 32 --out /shared/cifar10 --distributed"

and by hand, with JAX_PROCESS_ID=1 on the second host

    JAX_COORDINATOR_ADDRESS=first-host:9876 JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=0 \\
        python examples/train_anywhere.py --recipe digits --nets 2 --out /shared/digits

Run it again and it goes on where it was stopped: by Ctrl-C or SIGTERM on any of the hosts, which saves first, or because a host
was lost. The number of processes may be another one then. Eight devices can be tried on any CPU:

    XLA_FLAGS=--xla_force_host_platform_device_count=8 \\
        python examples/train_anywhere.py --recipe digits --nets 8 --out runs/eight

`ddjax distill RECIPE --distributed` is the same as a command.
"""

import argparse
import sys

import ddjax


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="digits", help="a name that `ddjax recipes` lists")
    parser.add_argument("--out", default="runs/anywhere", help="folder of the run, which all processes see")
    parser.add_argument("--nets", type=int, help="networks in each outer step, best a multiple of the devices")
    parser.add_argument("--outer-steps", type=int, help="outer steps, if not the recipe's")
    parser.add_argument("--distributed", action="store_true", help="this is one of several processes")
    arguments = parser.parse_args()

    ddjax.use_devices(arguments.distributed)  # before anything else of JAX
    recipe = ddjax.get_recipe(arguments.recipe)
    if (
        arguments.nets is not None
    ):  # networks are what is shared out best: each device trains its own, one exchange a step
        recipe = recipe.replace(num_nets=arguments.nets, init="random")
    if arguments.outer_steps is not None:
        recipe = recipe.replace(outer_steps=arguments.outer_steps)

    # Without what `ddjax distill` compares it with, which takes longer than short runs.
    done = ddjax.distill(recipe, arguments.out, name=arguments.recipe, resume=True, compare=False)
    if ddjax.first_process():
        found = done.summary.distilled
        print(f"{found['accuracy_mean']:.2f} % of the test examples; {done.folder / 'distilled.safetensors'}")


if __name__ == "__main__":
    try:
        main()
    except ddjax.LostProcessError as error:
        print(f"{error}: run this again to go on", file=sys.stderr)
        ddjax.leave_run(1)
    except ddjax.InterruptedRunError as error:
        print(f"{error}: run this again to go on", file=sys.stderr)
        ddjax.leave_run(128 + error.signum)
