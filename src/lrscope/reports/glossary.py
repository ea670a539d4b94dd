"""What the words of a report mean."""

from lrscope.reports.markup import Markup

GLOSSARY: tuple[tuple[str, str], ...] = (
    ("Peak learning rate", "The largest learning rate of the schedule, reached at the end of the warmup."),
    (
        "Warmup",
        "The first updates, during which the learning rate climbs to its peak. It gives training time to move to a "
        "flatter region, where larger steps are stable.",
    ),
    (
        Markup("Largest stable learning rate (one-step test), <i>η</i><sub>c</sub>"),
        "The largest learning rate whose next step does not raise the loss, found by trying steps on the same batch "
        "with forward passes only; also called the critical learning rate. One step says little about the many that "
        "follow, so the plan only starts its search there. It is not the curvature limit.",
    ),
    (
        Markup("Sharpness <i>λ</i>"),
        "The largest eigenvalue of the Hessian of the training loss: the curvature of the steepest direction.",
    ),
    (
        "Preconditioned sharpness",
        "The same for the Hessian as an adaptive optimizer sees it, after its division by the running size of the "
        "gradients. For Adam this one decides stability.",
    ),
    (
        "Curvature limit",
        "The largest learning rate that the measured curvature allows: the optimizer's threshold divided by the "
        "sharpness (for plain gradient descent 2/λ). It describes one moment: sharpness changes as training goes on, "
        "and small batches lower the limit. For Adam before its first update it means little.",
    ),
    (
        "Headroom",
        "Learning rate divided by the curvature limit of that moment. Below 1 there is room; above 1 the loss "
        "in the sharpest direction grows until the curvature gives way.",
    ),
    (
        "Catapult",
        "The loss jumps because the learning rate exceeds the limit, the sharpness falls in response, and the loss "
        "comes back down. Harmless when small.",
    ),
    (
        "Diverged",
        "The loss became infinite, not a number, or a thousand times its first value; the run was stopped there.",
    ),
    (
        "Told apart",
        "Two settings are told apart when their scores differ by more than two standard errors over the seeds, by "
        "1\u202f% at least and by 5\u202f% at most. Of settings that are not, the trials prefer none.",
    ),
    (
        "Cell, rung",
        "A cell is one peak learning rate with one warmup and one length of run; its score is the mean over its "
        "seeds. A rung is a stage of the planning: the first looks wide, the second closely, the third takes the "
        "best cells to the longest runs.",
    ),
    (
        "Horizon",
        "Number of updates of a short run. Every short run has the whole shape: warmup, peak, decay to zero.",
    ),
)
