"""What the walk says beside each piece of code of the reading path, in the order in which a pair passes through it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Station:
    """A function or class and what to see in it.

    code: "file: name", a method as Class.name; equation: one line each; shapes: (name, shape, meaning); picture: rows
    of boxes, (text, width, colour) each, colour a class of report/html.py or "" for none.
    """

    code: str
    title: str
    text: str
    equation: tuple[str, ...] = ()
    shapes: tuple[tuple[str, str, str], ...] = ()
    picture: tuple[tuple[tuple[str, float, str], ...], ...] = ()


PROMPT = (
    ("instruction, history", 4, "grey"),
    ("will like", 1.6, "blue"),
    ("target?", 1.6, "grey"),
    ("Yes.", 1, "green"),
)
NEGATED = (
    ("instruction, history", 4, "grey"),
    ("will dislike", 1.6, "red"),
    ("target?", 1.6, "grey"),
    ("No.", 1, "green"),
)
STATIONS = (
    Station(
        "data/prompts.py: prompt_pair",
        "One question, asked twice",
        "A row of ratings becomes two prompts. They differ in the word that inverts the question, and so do the "
        "right answers. The questions are in data/questions.py.",
        ("Y⁻ = not Y⁺",),
        picture=(PROMPT, NEGATED),
    ),
    Station(
        "data/pairs.py: answer_ids",
        "The tokens of Yes and No",
        "A token may depend on the text before it, so the answers are tokenised behind a prompt. If both began with "
        "the same token, no position could tell them apart; such a tokenizer is refused.",
    ),
    Station(
        "data/pairs.py: collate",
        "P pairs in one batch",
        "Blocks, and not positive, negative, positive, negative: the slices [:P] and [P:] cannot be miscounted. "
        "Padding is on the right, where a causal model does not see it.",
        shapes=(
            ("input_ids", "(2P, T)", "all rows, padded"),
            ("positions", "(2P, A)", "where the answer's tokens are predicted: one before each"),
            ("targets", "(2P, A)", "the answer's tokens, −1 where there is none"),
        ),
        picture=(
            (("X⁺ Y⁺ of pair 1", 5, "blue"), ("pad", 1, "")),
            (("X⁺ Y⁺ of pair 2", 6, "blue"),),
            (("X⁻ Y⁻ of pair 1", 5, "red"), ("pad", 1, "")),
            (("X⁻ Y⁻ of pair 2", 6, "red"),),
        ),
    ),
    Station(
        "model/llama.py: Llama",
        "The whole model",
        "Hidden states of all tokens, but logits only where the answer is predicted: over a vocabulary of 32,000 "
        "they are the largest tensor.",
        shapes=(
            ("hidden_states", "(B, T, D)", "one vector a token"),
            ("positions", "(B, A)", "A of T are needed: 3 of 250"),
            ("returns", "(B, A, V)", "logits"),
        ),
    ),
    Station(
        "model/llama.py: DecoderLayer",
        "A layer adds to the stream",
        "Attention moves information between tokens, the MLP works on each token alone. Both read a normalised copy "
        "and add to what was there.",
        ("x ← x + attention(norm(x))", "x ← x + MLP(norm(x))"),
        shapes=(("x", "(B, T, D)", "the residual stream"),),
    ),
    Station(
        "model/llama.py: RMSNorm",
        "Norm",
        "The mean square is taken in float32: a bf16 sum over D squares stops growing when it is 256 times a term.",
        ("x / √(mean(x²) + ε) · w",),
        shapes=(("x", "(…, D)", ""),),
    ),
    Station(
        "model/llama.py: Attention",
        "Attention",
        "Queries ask, keys answer, values are what is carried. LoRA sits on q_proj and v_proj, put there from "
        "outside: this code does not know of it.",
        ("softmax(q kᵀ / √Dh) v",),
        shapes=(("q", "(B, T, H, Dh)", "H heads"), ("k, v", "(B, T, K, Dh)", "K ≤ H: several query heads share one")),
    ),
    Station(
        "model/llama.py: rotate",
        "Where a token stands",
        "Each pair of components is turned by an angle that grows with the position. A product q · k then depends "
        "on the positions of the two tokens only through their distance.",
        ("(a, b) → (a cos − b sin, b cos + a sin)",),
        shapes=(("x", "(…, T, H, Dh)", ""), ("cos, sin", "(T, 1, Dh)", "of position × frequency")),
    ),
    Station(
        "model/llama.py: causal_attention",
        "A token sees what is on its left",
        "This is why padding on the right changes nothing, and why equal beginnings of two prompts have equal states.",
        shapes=(("q kᵀ", "(B, H, T, T)", "never stored whole by the fused kernel"),),
        picture=(
            (("1", 1, "blue"), ("", 1, ""), ("", 1, ""), ("", 1, "")),
            (("1", 1, "blue"), ("2", 1, "blue"), ("", 1, ""), ("", 1, "")),
            (("1", 1, "blue"), ("2", 1, "blue"), ("3", 1, "blue"), ("", 1, "")),
            (("1", 1, "blue"), ("2", 1, "blue"), ("3", 1, "blue"), ("4", 1, "blue")),
        ),
    ),
    Station(
        "model/prefix_tree.py: PrefixTree",
        "What rows share is computed once",
        "Both prompts of a pair begin alike, up to the word that differs, and so do targets of the same user. The "
        "tokens of that beginning are one branch of a tree: one state each, whose gradients from all rows are "
        "added.",
        shapes=(("input_ids", "(B, T)", "rows"), ("tree", "N tokens", "N ≤ B · T: the distinct prefixes")),
        picture=(
            (("… will", 1.8, "grey"), ("like the target …", 5, "blue")),
            (("", 1.8, ""), ("dislike the target …", 5, "red")),
        ),
    ),
    Station(
        "lora/layer.py: LoRALinear.forward",
        "LoRA",
        "The frozen matrix stays; beside it runs a path through r numbers. B starts at zero, so an untrained "
        "adapter changes nothing, not even the last bit.",
        ("y = W x + s B(A(x)), s = α / r",),
        shapes=(
            ("W", "(out, in)", "frozen"),
            ("A", "(r, in)", "trained, float32"),
            ("B", "(out, r)", "trained, float32"),
        ),
        picture=(
            (("x", 1, "grey"), ("W", 4, "grey"), ("y", 1, "grey")),
            (("", 0.9, ""), ("A", 1.5, "blue"), ("B", 1.5, "blue")),
        ),
    ),
    Station(
        "lora/inject.py: add_lora",
        "Which layers learn",
        "Everything is frozen first; then the named linear layers are wrapped. What requires a gradient afterwards "
        "is what the optimizer, the saved states and the checks take.",
    ),
    Station(
        "loss.py: log_probabilities",
        "Logits to log-probabilities",
        "In float32, and never log(softmax): that would underflow to −∞.",
        ("log p(v) = z(v) − log Σ exp z",),
        shapes=(("logits", "(…, V)", ""),),
    ),
    Station(
        "loss.py: token_cross_entropy",
        "Eq. 1: be right",
        "Minus the log-probability of the right token.",
        ("CE = −log p(Y)", "∂CE/∂z = p − onehot(Y)"),
        shapes=(("log_p", "(…, V)", ""), ("targets", "(…)", "−1: no token")),
    ),
    Station(
        "loss.py: token_kl",
        "Eq. 2: be different",
        "How far the two questions' predictions are apart, over the whole vocabulary. 0 log 0 is 0, so what p "
        "excludes is masked before it is multiplied.",
        ("KL = Σ_v p(v) [log p(v) − log q(v)]", "∂KL/∂z_p = p (log p − log q − KL)", "∂KL/∂z_q = q − p"),
        shapes=(("log_p, log_q", "(…, V)", ""),),
    ),
    Station(
        "loss.py: answer_terms",
        "The terms of every pair",
        "The block of positive rows gives p, that of negative rows gives q. A KL above the cap keeps its value and "
        "is detached before it is computed: zero times an infinite gradient would be NaN.",
        shapes=(("logits", "(2P, A, V)", "or 3P with shared forcing"), ("returns", "(P, A)", "CE⁺, CE⁻ and KL")),
    ),
    Station(
        "loss.py: paper_loss",
        "Eq. 3: the loss",
        "The KL is subtracted: training pushes the two answers apart, and nothing in Eq. 3 ends that. P is the "
        "number of pairs of the whole step, so micro-batches of any size give the same gradient. The page "
        "../explorer.html shows where it pulls.",
        ("L = (1/P) Σ_i [CE⁺_i + CE⁻_i − λ KL_i]",),
        picture=((("CE⁺", 1, "green"), ("CE⁻", 1, "green"), ("− λ KL", 1, "violet")),),
    ),
    Station(
        "objectives/paper.py: Paper.loss",
        "An objective puts it together",
        "Which rows to feed, which terms to add. The loop below knows no more of a loss than this method.",
    ),
    Station(
        "train.py: batch_of_step",
        "Which pairs a step takes",
        "A function of seed and step alone. Nothing has to be saved, and a resumed run takes the same batches.",
    ),
    Station(
        "train.py: accumulate_gradients",
        "Forward and backward",
        "Micro-batches add up their gradients in A and B, on all processes.",
        ("∂L/∂A, ∂L/∂B",),
    ),
    Station(
        "train.py: fine_tune",
        "The loop",
        "Gradient, clipping, a check that it is finite, a step of AdamW; from time to time a validation, which "
        "keeps the best adapter. Stopped at any instant, it can go on.",
    ),
)
