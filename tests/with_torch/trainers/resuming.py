"""A small training with everything that draws: dropout, Adam, a schedule, a shuffled loader.

Writes one line per step, after the step: "<step> <loss in hex>". Resumes from its latest
checkpoint. Arguments: root, file of losses, steps, checkpoint every.
"""

import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset

import runwire

root, losses, steps, every = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(1)
torch.manual_seed(7)
x = torch.randn(96, 16)
y = x @ torch.randn(16, 1)
model = torch.nn.Sequential(
    torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Dropout(0.3), torch.nn.Linear(32, 1)
)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

with runwire.init("resumes", run_id="bitwise", dir=root) as run:
    found = run.load_checkpoint("latest", model=model, optimizer=optimizer, scheduler=scheduler)
    first = found.step + 1 if found is not None else 0
    batches = 96 // 8
    with Path(losses).open("a", buffering=1, encoding="ascii") as told:
        print(f"# from {first}", file=told)
        for epoch in range(first // batches, -(-steps // batches)):
            # The order of an epoch depends on its number alone, so any step of it can be reached.
            order = torch.Generator().manual_seed(1000 + epoch)
            loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True, generator=order)
            for step, (inputs, targets) in enumerate(loader, start=epoch * batches):
                if not first <= step < steps:
                    continue
                optimizer.zero_grad()
                loss = torch.nn.functional.mse_loss(model(inputs), targets)
                loss.backward()
                optimizer.step()
                scheduler.step()
                run.log({"loss": loss.item()})
                print(step, loss.item().hex(), file=told)
                if step % every == every - 1:
                    run.save_checkpoint(
                        step,
                        model=model,
                        optimizer=optimizer,
                        scheduler=scheduler,
                        metrics={"loss": loss},
                        asynchronous=step % (2 * every) == every - 1,
                    )
