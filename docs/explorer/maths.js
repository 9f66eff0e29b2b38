// The terms of Eq. 1-3 for a model that can say Yes and No alone, and their gradients. In nats.
// zp, zn: log-odds of Yes after "will like?" and after "will dislike?"; liked: whether the user likes the target.
// tests/test_explorer.py compares every value with loss.py.

function softplus(z) {
  // log(1 + exp(z))
  return Math.max(z, 0) + Math.log1p(Math.exp(-Math.abs(z)));
}

function sigmoid(z) {
  var e = Math.exp(-Math.abs(z));  // so that a small probability keeps all its digits
  return (z < 0 ? e : 1) / (1 + e);
}

function crossEntropies(zp, zn, liked) {
  // Eq. 1: the right answer is Yes to the first question and No to the second, or the other way round.
  var sign = liked ? 1 : -1;
  return {pos: softplus(-sign * zp), neg: softplus(sign * zn)};
}

function divergence(z, w) {
  // Eq. 2: KL(p || q) of p = (Yes, No) with log-odds z, and q with log-odds w.
  return sigmoid(z) * (softplus(-w) - softplus(-z)) + sigmoid(-z) * (softplus(w) - softplus(z));
}

function mixed(zp, zn) {
  // Log-odds of the mean of both distributions.
  return Math.log(sigmoid(zp) + sigmoid(zn)) - Math.log(sigmoid(-zp) + sigmoid(-zn));
}

function logCosh(x) {
  return Math.abs(x) + Math.log1p(Math.exp(-2 * Math.abs(x))) - Math.LN2;
}

function terms(zp, zn, liked, weight, cap) {
  // Every value and its gradient, [d/dzp, d/dzn]. cap: of --kl-cap, null for none.
  var p = sigmoid(zp), q = sigmoid(zn), ce = crossEntropies(zp, zn, liked), right = liked ? 1 : 0;
  var kl = divergence(zp, zn), m = mixed(zp, zn), half = Math.tanh((zp - zn) / 4) / 2;
  var ofCe = [p - right, q - (1 - right)];
  var ofKl = [p * sigmoid(-zp) * (zp - zn), q - p];
  var held = cap !== null && kl > cap;  // above the cap the KL keeps its value and sends no gradient
  return {
    cePos: ce.pos,
    ceNeg: ce.neg,
    ce: {value: ce.pos + ce.neg, gradient: ofCe},
    kl: {value: kl, gradient: ofKl},
    js: {
      value: (divergence(zp, m) + divergence(zn, m)) / 2,
      gradient: [p * sigmoid(-zp) * (zp - m) / 2, q * sigmoid(-zn) * (zn - m) / 2]
    },
    arbitrage: {
      value: logCosh(zp / 2) + logCosh(zn / 2) - 2 * logCosh((zp - zn) / 4),
      gradient: [Math.tanh(zp / 2) / 2 - half, Math.tanh(zn / 2) / 2 + half]
    },
    loss: {
      value: ce.pos + ce.neg - weight * kl,  // Eq. 3
      gradient: [0, 1].map(function (i) { return ofCe[i] - (held ? 0 : weight * ofKl[i]); })
    },
    klPulls: !held && weight * Math.abs(ofKl[1]) > Math.abs(ofCe[1])
  };
}
