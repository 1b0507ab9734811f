/* Notebook 09 without a kernel: sliders for the loss weights over the recorded Gram matrices.

   A cell of the notebook leaves its data in <script class="tk-gradients">. What is computed here is what
   GradientMoment.read and explore/panels.py compute: with the Gram matrix G and the weights w, |g| = sqrt(w'Gw),
   share_t = w_t (Gw)_t / w'Gw, and so on. tests/notebooks/test_book.py compares the two. */
"use strict";

function read(moment, weights) {
  const { names, gram } = moment;
  const w = names.map(name => name === "ce" ? 1 : weights[name]);
  const pull = gram.map(row => row.reduce((sum, value, k) => sum + value * w[k], 0)); // G w
  const square = pull.reduce((sum, value, k) => sum + value * w[k], 0);
  const norm = Math.sqrt(Math.max(0, square));
  const size = gram.map((row, k) => Math.sqrt(Math.max(0, row[k])));
  const cosine = (value, scale) => scale > 0 ? Math.min(1, Math.max(-1, value / scale)) : 0;
  const alignment = cosine(pull[0], size[0] * norm);
  const terms = names.map((name, k) => ({
    name, weight: w[k], loss: moment.losses[k], norm: size[k],
    share: square > 0 ? w[k] * pull[k] / square : 0, cosine: cosine(gram[0][k], size[0] * size[k]),
  }));
  const add = what => terms.reduce((sum, term) => sum + what(term), 0);
  terms.push({
    name: "weighted sum", weight: null, loss: add(term => term.weight * term.loss), norm,
    share: add(term => term.share), cosine: alignment,
  });
  return { terms, norm, alignment, best: -size[0], perLength: -size[0] * alignment, perRate: -pull[0] };
}

/* Fixed digits without a negative zero. */
function fixed(value, digits) {
  const text = value.toFixed(digits);
  return Number(text) === 0 ? (0).toFixed(digits) : text;
}
const percent = (share, digits) => fixed(100 * share, digits) + "%";

function sentence(step, reading) {
  const rest = reading.terms.slice(1, -1);
  const sum = rest.reduce((total, term) => total + term.share, 0);
  const most = rest.reduce((top, term) => term.share > top.share ? term : top);
  const above = rest.some(term => term.share !== 0) ? `, above all ${most.name} (${percent(most.share, 0)})` : "";
  return `After ${step} steps the labels (ce) make up ${percent(reading.terms[0].share, 0)} of the gradient and ` +
    `distillation ${percent(sum, 0)}${above}. To first order, a step of length 0.01 against it changes ce by ` +
    `${fixed(reading.perLength / 100, 4)} nats (at best ${fixed(reading.best / 100, 4)}), plain gradient descent ` +
    `at learning rate 0.001 by ${fixed(reading.perRate / 1000, 4)} nats.`;
}

/* <tag ...attributes>children</tag> */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/* A cell with a bar from its middle, as long as the value in [-1, 1]; the number stands on it. */
function bar(value, text) {
  const end = 50 + 50 * Math.min(1, Math.max(-1, value));
  const [from, to, colour] = value < 0 ? [end, 50, "#d55e0080"] : [50, end, "#1f88c980"];
  const ground = `transparent ${from}%, ${colour} ${from}%, ${colour} ${to}%, transparent ${to}%`;
  return make("td", { style: `background: linear-gradient(90deg, ${ground})` }, text);
}

function explore(block) {
  const record = JSON.parse(block.textContent);
  const names = record.moments[0].names.filter(name => name !== "ce");
  const groups = new Map(); // a slider's label: the terms that it weighs
  for (const name of names) {
    const label = name.startsWith("csf_") ? "csf_1 to csf_4" : name;
    groups.set(label, [...(groups.get(label) ?? []), name]);
  }
  const moment = make("select", {}, ...record.moments.map(({ step }) => new Option(`after ${step} steps`, step)));
  moment.value = record.start;
  const said = make("p", { "class": "tk-said", "aria-live": "polite" });
  const body = make("tbody");
  const sliders = new Map();
  const rows = [...groups].map(([label, terms]) => {
    const slider = make("input", { type: "range", min: 0, max: 5, step: 0.05 });
    const value = make("output");
    sliders.set(terms[0], { slider, value, terms });
    return make("label", {}, make("span", {}, label), slider, value);
  });

  function choose(weights) {
    for (const [term, { slider }] of sliders) slider.value = weights[term];
    show();
  }
  function show() {
    const weights = {};
    for (const { slider, value, terms } of sliders.values()) {
      value.textContent = Number(slider.value).toFixed(2);
      for (const term of terms) weights[term] = Number(slider.value);
    }
    const reading = read(record.moments.find(({ step }) => step === Number(moment.value)), weights);
    said.textContent = sentence(moment.value, reading);
    body.replaceChildren(...reading.terms.map(term => make("tr", {},
      make("th", { scope: "row" }, term.name), make("td", {}, term.weight === null ? "" : fixed(term.weight, 3)),
      make("td", {}, fixed(term.loss, 3)), make("td", {}, fixed(term.norm, 3)),
      bar(term.share, percent(term.share, 1)), bar(term.cosine, fixed(term.cosine, 3)))));
  }

  const presets = Object.entries(record.presets).map(([name, weights]) => {
    const button = make("button", { type: "button" }, name);
    button.addEventListener("click", () => choose(weights));
    return button;
  });
  const head = ["term", "weight", "loss (ce, kd: nats)", "size of its gradient (loss per length)",
    "share of the gradient (%)", "cosine with ce (-1 to 1)"];
  const what = "Each term's part in the gradient, at the weights above. " +
    "ce: labels; csf: features of a stage; pea: embedding of a stage; kd: logits";
  const panel = make("div", { "class": "tk-explorer", role: "group", "aria-label": "Loss weights" },
    make("div", { "class": "tk-presets" }, ...presets),
    make("label", {}, make("span", {}, "Moment of training"), moment), ...rows, said,
    make("div", { "class": "tk-scroll" }, make("table", {}, make("caption", {}, what),
      make("thead", {}, make("tr", {}, ...head.map(text => make("th", { scope: "col" }, text)))), body)));
  panel.addEventListener("input", show);
  choose(record.presets.Paper);
  block.closest(".output")?.nextElementSibling?.remove(); // which says that a kernel is needed
  block.parentElement.replaceChildren(panel, block);
}

document.querySelectorAll("script.tk-gradients").forEach(explore);
