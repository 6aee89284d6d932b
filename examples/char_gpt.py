"""Training of a small character-level GPT on the English text that ships with Python.

Needs `pip install torch runwire`. About two minutes on two cores:

    python examples/char_gpt.py
    python examples/char_gpt.py --minutes 10 --lr 1e-3
    python examples/char_gpt.py --sample FOLDER     # samples text from a downloaded checkpoint

The seed is fixed; the number of steps depends on the machine, because training stops after
`--minutes`. The calls of runwire are `runwire.init(...)`, two `run.log(...)` and
`run.save_checkpoint(...)`.
"""

import argparse
import math
import sys
import time
from pydoc_data.topics import topics

import torch
from torch import Tensor, nn
from torch.nn import functional

import runwire


class Block(nn.Module):
    """One transformer layer: causal self-attention, then a feed-forward net."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm_feed = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(batch, length, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(attended.transpose(1, 2).reshape(batch, length, width))
        return x + self.feed(self.norm_feed(x))


class CharGPT(nn.Module):
    """Predicts the next character from the previous ones."""

    def __init__(self, *, characters: int, context: int, layers: int, width: int, heads: int):
        super().__init__()
        self.context = context
        self.token = nn.Embedding(characters, width)
        self.position = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, characters)

    def forward(self, x: Tensor) -> Tensor:
        x = self.token(x) + self.position(torch.arange(x.shape[1]))
        return self.head(self.norm(self.blocks(x)))

    @torch.no_grad()
    def write(self, start: Tensor, length: int) -> Tensor:
        """Continue `start` by `length` sampled characters."""
        text = start
        for _ in range(length):
            logits = self(text[:, -self.context :])[:, -1]
            text = torch.cat([text, torch.multinomial(logits.softmax(-1), 1)], dim=1)
        return text


def read_text() -> str:
    """Return the help topics of Python: about 465,000 characters of English prose and grammar."""
    return "\n".join(topics[name] for name in sorted(topics))


def draw_batch(data: Tensor, context: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """Return random windows of the text, and as targets the same windows one character later."""
    starts = torch.randint(len(data) - context - 1, (batch_size,))
    windows = torch.stack([data[i : i + context + 1] for i in starts.tolist()])
    return windows[:, :-1], windows[:, 1:]


def loss_of(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


@torch.no_grad()
def validate(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> float:
    return sum(loss_of(model, x, y).item() for x, y in batches) / len(batches)


def learning_rate(config: dict, step: int, progress: float) -> float:
    """Return the rate of a linear warm-up, then a cosine that falls to a tenth."""
    warmup = min(1.0, (step + 1) / config["warmup_steps"])
    return config["lr"] * warmup * (0.55 + 0.45 * math.cos(math.pi * progress))


def sample(model: CharGPT, alphabet: str, length: int = 300) -> str:
    """Return sampled text, started from a line break."""
    start = torch.tensor([[alphabet.index("\n")]])
    return "".join(alphabet[i] for i in model.write(start, length)[0].tolist())


def sample_from(folder: str) -> None:
    """Load the model from a checkpoint's folder and print sampled text."""
    checkpoint = runwire.read_checkpoint(folder)
    about = checkpoint.extra
    model = CharGPT(characters=len(about["alphabet"]), **about["shape"])
    model.load_state_dict(checkpoint.model)
    model.eval()
    print(f"sampled from step {checkpoint.step}, {dict(checkpoint.metrics)}:")
    print(sample(model, about["alphabet"]))


def train(config: dict, name: str | None) -> None:
    # More threads help so small a model little, and threads that wait for each other become very
    # slow when another process needs a core.
    torch.set_num_threads(1)
    torch.manual_seed(config["seed"])
    text = read_text()
    alphabet = "".join(sorted(set(text)))
    data = torch.tensor([alphabet.index(c) for c in text])
    train_data, val_data = data[: int(0.9 * len(data))], data[int(0.9 * len(data)) :]
    context, batch_size = config["context"], config["batch_size"]
    val_batches = [draw_batch(val_data, context, batch_size) for _ in range(8)]

    shape = {key: config[key] for key in ("context", "layers", "width", "heads")}
    model = CharGPT(characters=len(alphabet), **shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["lr"], weight_decay=0.1)
    parameters = sum(p.numel() for p in model.parameters())

    with runwire.init(project="demo", name=name, config=config | {"parameters": parameters}) as run:
        print(f"run {run.id}: {parameters:,} parameters, {len(text):,} characters of text")
        about = {"shape": shape, "alphabet": alphabet}
        keep = runwire.Retention(keep_last=2, keep_best=1, metric="val/loss")
        started, step, progress, best = time.monotonic(), 0, 0.0, math.inf
        while progress < 1:
            step_started = time.monotonic()
            lr = learning_rate(config, step, progress)
            for group in optimizer.param_groups:
                group["lr"] = lr
            loss = loss_of(model, *draw_batch(train_data, context, batch_size))
            optimizer.zero_grad()
            loss.backward()
            grad_norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

            now = time.monotonic()
            progress = min(1.0, (now - started) / (60 * config["minutes"]))
            metrics = {
                "train/loss": loss,
                "train/lr": lr,
                "train/grad_norm": grad_norm,
                "train/tokens_per_s": batch_size * context / (now - step_started),
                "progress": progress,
                "eta_s": (1 - progress) * 60 * config["minutes"],
            }
            run.log(metrics, step=step)
            if step % config["validate_every"] == 0 or progress == 1:
                val_loss = validate(model, val_batches)
                run.log({"val/loss": val_loss, "val/perplexity": math.exp(val_loss)}, step=step)
                run.save_checkpoint(
                    step,
                    model=model,
                    optimizer=optimizer,
                    extra=about,
                    metrics={"val/loss": val_loss},
                    is_best=val_loss < best,
                    retention=keep,
                )
                best = min(best, val_loss)
                print(
                    f"{progress:4.0%}  step {step:5}  train {loss.item():.3f}  "
                    f"val {val_loss:.3f}  perplexity {math.exp(val_loss):6.2f}  "
                    f"{metrics['train/tokens_per_s']:7,.0f} tokens/s  "
                    f"{metrics['eta_s']:4.0f} s left",
                    flush=True,
                )
            step += 1

    print("\nsampled text:" + sample(model, alphabet, 200))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=2.0, help="how long to train")
    parser.add_argument("--lr", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--name", default=None, help="name of the run")
    parser.add_argument("--sample", metavar="FOLDER", help="only sample text from this checkpoint")
    arguments = parser.parse_args()
    if arguments.sample:
        sample_from(arguments.sample)
        return 0
    config = {"minutes": arguments.minutes, "lr": arguments.lr, "seed": arguments.seed}
    config |= {"context": 64, "layers": 3, "width": 96, "heads": 4, "batch_size": 16}
    config |= {"warmup_steps": 50, "validate_every": 50}
    try:
        train(config, arguments.name)
    except KeyboardInterrupt:
        print("\nstopped; the run is recorded as interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
