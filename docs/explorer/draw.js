// Sliders, curves and the plane. The maths is above; SETTINGS has the pairs of the demo and values of loss.py.

var RANGE = 12, NAMES = {ce: "CE⁺ + CE⁻", kl: "KL", js: "JS", arbitrage: "arbitrage", loss: "L"};
var KINDS = {ce: "green", kl: "violet", js: "grey", arbitrage: "orange", loss: "blue"};

function element(id) {
  return document.getElementById(id);
}

function state() {
  var weight = Number(element("weight").value), cap = Number(element("cap").value);
  return {
    zp: Number(element("zp").value),
    zn: Number(element("zn").value),
    liked: element("liked").value === "yes",
    weight: weight <= -5 ? 0 : Math.pow(10, weight),
    cap: cap > 12 ? null : cap
  };
}

function at(s, zp, zn) {
  return terms(zp, zn, s.liked, s.weight, s.cap);
}

function number(value, digits) {
  return value.toFixed(digits === undefined ? 4 : digits).replace("-", "−");
}

// ---- curves ----

function place(x, y, box) {
  return [box.left + (x - box.x[0]) / (box.x[1] - box.x[0]) * (box.width - box.left - 12),
          box.height - 34 - (y - box.y[0]) / (box.y[1] - box.y[0]) * (box.height - 46)];
}

function line(points, box, kind) {
  var shown = points.map(function (point) {
    return place(point[0], point[1], box).map(function (v) { return v.toFixed(1); }).join(",");
  });
  return '<polyline class="curve ' + kind + '" points="' + shown.join(" ") + '"/>';
}

function dot(x, y, box, kind, size) {
  var p = place(x, y, box);
  return '<circle class="bar ' + kind + '" cx="' + p[0].toFixed(1) + '" cy="' + p[1].toFixed(1) + '" r="' + size + '"/>';
}

function axes(box, xs, ys, across, up) {
  var out = xs.map(function (x) {
    var low = place(x, box.y[0], box), high = place(x, box.y[1], box);
    return '<line class="grid" x1="' + low[0] + '" y1="' + low[1] + '" x2="' + high[0] + '" y2="' + high[1] + '"/>'
      + '<text text-anchor="middle" x="' + low[0] + '" y="' + (low[1] + 15) + '">' + number(x, 0) + '</text>';
  }).concat(ys.map(function (y) {
    var low = place(box.x[0], y, box), high = place(box.x[1], y, box);
    return '<line class="grid" x1="' + low[0] + '" y1="' + low[1] + '" x2="' + high[0] + '" y2="' + high[1] + '"/>'
      + '<text text-anchor="end" x="' + (low[0] - 5) + '" y="' + (low[1] + 4) + '">' + number(y, 0) + '</text>';
  }));
  var middle = (box.left + box.width - 12) / 2, height = (box.height - 34) / 2;
  return out.join("") + '<text text-anchor="middle" x="' + middle + '" y="' + (box.height - 3) + '">' + across + '</text>'
    + '<text text-anchor="middle" transform="rotate(-90 11 ' + height + ')" x="11" y="' + height + '">' + up + '</text>';
}

function steps(low, high, step) {
  var out = [];
  for (var x = low; x <= high + 1e-9; x += step) out.push(x);
  return out;
}

function clipped(points, box) {
  // Runs of points within the box: a curve that leaves it ends there.
  var runs = [], run = [];
  points.forEach(function (point) {
    if (point[1] >= box.y[0] && point[1] <= box.y[1]) run.push(point);
    else if (run.length) { runs.push(run); run = []; }
  });
  return run.length ? runs.concat([run]) : runs;
}

function drawCurves(s) {
  var box = {x: [-RANGE, RANGE], y: [-4, 12], left: 36, width: 380, height: 290}, marks = "", here = at(s, s.zp, s.zn);
  Object.keys(NAMES).forEach(function (name) {
    var points = steps(-RANGE, RANGE, 0.1).map(function (zn) { return [zn, at(s, s.zp, zn)[name].value]; });
    clipped(points, box).forEach(function (run) { marks += line(run, box, KINDS[name]); });
    var value = here[name].value;
    if (value >= box.y[0] && value <= box.y[1]) marks += dot(s.zn, value, box, KINDS[name], 4.5);
  });
  element("curves").innerHTML = axes(box, steps(-12, 12, 4), steps(-4, 12, 4), "z⁻, with z⁺ as it is set", "nats") + marks;
}

// ---- the plane ----

function arrow(x, y, dx, dy, box, kind) {
  var from = place(x, y, box), size = Math.hypot(dx, dy);
  if (size < 1e-7) return "";
  var length = 15 * Math.pow(size, 0.25);  // so that weak pulls can be seen, too
  var ux = dx / size, uy = -dy / size, to = [from[0] + ux * length, from[1] + uy * length];
  function corner(side) {
    return (to[0] - 4 * ux + side * 2.6 * uy).toFixed(1) + "," + (to[1] - 4 * uy - side * 2.6 * ux).toFixed(1);
  }
  return '<line class="arrow ' + kind + '" x1="' + from[0].toFixed(1) + '" y1="' + from[1].toFixed(1) + '" x2="'
    + to[0].toFixed(1) + '" y2="' + to[1].toFixed(1) + '"/><polygon class="bar ' + kind + '" points="'
    + to[0].toFixed(1) + "," + to[1].toFixed(1) + " " + corner(1) + " " + corner(-1) + '"/>';
}

function drawPlane(s) {
  var box = {x: [-RANGE, RANGE], y: [-RANGE, RANGE], left: 36, width: 380, height: 380}, marks = "";
  [[0, RANGE, RANGE, 0], [-RANGE, 0, 0, -RANGE]].forEach(function (r) {
    var low = place(r[0], r[3], box), high = place(r[2], r[1], box);
    marks += '<rect class="tint red" x="' + low[0] + '" y="' + high[1] + '" width="' + (high[0] - low[0])
      + '" height="' + (low[1] - high[1]) + '"/>';
  });
  steps(-11, 11, 2).forEach(function (zp) {
    steps(-11, 11, 2).forEach(function (zn) {
      var there = at(s, zp, zn), g = there.loss.gradient;
      marks += arrow(zp, zn, -g[0], -g[1], box, there.klPulls ? "violet" : "grey");
    });
  });
  SETTINGS.pairs.forEach(function (pair) {
    if (pair.liked !== s.liked) return;
    marks += dot(pair.before[0], pair.before[1], box, "orange", 2.2) + dot(pair.after[0], pair.after[1], box, "blue", 2.2);
  });
  var g = at(s, s.zp, s.zn).loss.gradient;
  marks += arrow(s.zp, s.zn, -g[0], -g[1], box, "red") + dot(s.zp, s.zn, box, "red", 5);
  element("plane").innerHTML = axes(box, steps(-12, 12, 4), steps(-12, 12, 4), "z⁺: log-odds of Yes to “will like?”",
    "z⁻: log-odds of Yes to “will dislike?”") + marks;
}

// ---- words ----

function sentence(s, here) {
  var yes = s.zp > 0, no = s.zn <= 0, right = s.liked ? yes && no : !yes && !no;
  var said = yes !== no ? "The model contradicts itself: " + (yes ? "Yes" : "No") + " to both."
    : right ? "Both answers are right." : "The answers agree with each other, and both are wrong.";
  var pull = -here.loss.gradient[1];
  if (here.klPulls) {
    said += " Here λ KL pulls on z⁻ more than CE does (" + number(Math.abs(s.weight * here.kl.gradient[1]), 5) + " against "
      + number(Math.abs(here.ce.gradient[1]), 5) + ").";
  }
  if (here.klPulls && right) {
    said += " CE is content, and the KL grows on in a straight line: the pull towards " + (s.liked ? "lower" : "higher")
      + " z⁻ stays near λ " + (s.liked ? "p⁺" : "(1 − p⁺)") + ", without end.";
  } else if (s.cap !== null && here.kl.value > s.cap) {
    said += " The KL is above the cap, so it pulls no more.";
  } else {
    said += " One step of descent moves z⁻ " + (pull > 0 ? "up." : pull < 0 ? "down." : "nowhere.");
  }
  return said;
}

function show() {
  var s = state(), here = at(s, s.zp, s.zn);
  element("zp-value").textContent = number(s.zp, 1) + ", p⁺ = " + number(sigmoid(s.zp), 3);
  element("zn-value").textContent = number(s.zn, 1) + ", p⁻ = " + number(sigmoid(s.zn), 3);
  element("weight-value").textContent = s.weight ? s.weight.toPrecision(2) : "0: the control";
  element("cap-value").textContent = s.cap === null ? "none" : number(s.cap, 1) + " nats";
  element("sentence").textContent = sentence(s, here);
  var rows = Object.keys(NAMES).map(function (name) {
    var g = here[name].gradient;
    return '<tr><td class="' + KINDS[name] + '"><span class="key ' + KINDS[name] + '"><i></i>' + NAMES[name] + "</span></td><td>"
      + number(here[name].value) + "</td><td>" + number(g[0]) + "</td><td>" + number(g[1]) + "</td></tr>";
  });
  element("values").innerHTML = "<tr><th></th><th>value</th><th>∂/∂z⁺</th><th>∂/∂z⁻</th></tr>" + rows.join("");
  drawCurves(s);
  drawPlane(s);
}

function check() {
  // The largest difference between the maths above and what loss.py gave when this page was made.
  var worst = 0;
  SETTINGS.grid.forEach(function (row) {
    var t = terms(row[0], row[1], row[2], row[3], null);
    [t.cePos, t.ceNeg, t.kl.value, t.loss.value].forEach(function (value, i) {
      worst = Math.max(worst, Math.abs(value - row[4 + i]) / Math.max(1, Math.abs(row[4 + i])));
    });
  });
  element("checked").textContent = "Compared with " + SETTINGS.grid.length + " points that loss.py computed in float64: the largest "
    + "relative difference is " + worst.toExponential(0) + ".";
}

["zp", "zn", "weight", "cap", "liked"].forEach(function (id) { element(id).addEventListener("input", show); });
show();
check();
