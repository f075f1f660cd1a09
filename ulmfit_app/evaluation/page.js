"use strict";
// Sorts, filters and shortens the list of errors. The page is whole without it, and then shows all of the list.
const list = document.querySelector(".errors"), controls = document.querySelector(".controls");
const more = document.querySelector(".more");
const [label, predicted, order, words] = ["label", "predicted", "order", "words"].map(
  (name) => controls.querySelector(`[name=${name}]`));
const errors = [...list.children];
const orders = {
  surest: (a, b) => errors.indexOf(a) - errors.indexOf(b),
  unsure: (a, b) => errors.indexOf(b) - errors.indexOf(a),
  shortest: (a, b) => a.dataset.length - b.dataset.length,
  longest: (a, b) => b.dataset.length - a.dataset.length,
  row: (a, b) => a.dataset.row - b.dataset.row,
};
// Full-width letters and numbers are found by the usual ones.
const plain = (text) => text.normalize("NFKC").toLowerCase();
// Of several labels a text, their numbers with spaces between.
const has = (numbers, wanted) => !wanted || numbers.split(" ").includes(wanted);
const STEP = 20;
let shown = STEP;

function show() {
  const wanted = plain(words.value.trim());
  const found = errors.filter((error) =>
    has(error.dataset.label, label.value) && has(error.dataset.predicted, predicted.value) &&
    plain(error.lastElementChild.textContent).includes(wanted));
  found.sort(orders[order.value]);
  const visible = new Set(found.slice(0, shown));
  for (const error of errors) error.hidden = !visible.has(error);
  list.append(...visible);
  more.hidden = found.length <= shown;
  const output = controls.querySelector("output");
  output.textContent = output.dataset.shown.replace("{n}", visible.size).replace("{n_found}", found.length);
}

for (const control of [label, predicted, order, words]) {
  control.addEventListener("input", () => { shown = STEP; show(); });
}
more.addEventListener("click", () => { shown += STEP; show(); });
list.classList.add("live");
controls.hidden = false;
show();
