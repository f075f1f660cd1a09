// The model card: what the server says about its model, and about a second one beside it.
import { ask, count, find, items, make, percent, word } from "./page_parts.js";

const MOST_LABELS = 20; // that are named
const MOST_CHOICES = 6; // that are named in a sentence
const OF_TEXTS = ["text", "verdict", "bars", "marked", "word-rows", "right"]; // with the user's words

/** Shows what the server says of itself, and gives it. */
export async function describe(task) {
  const about = await (await ask("v1/model", task)).json();
  const { model, canary, share } = about;
  const name = model.data_set ?? model.run; // a run without a report knows no data set
  document.title = `ULMFiT on ${name}`;
  find("title").replaceChildren("ULMFiT on ", word(name));
  find("lead").replaceChildren(...question(model.labels), "? And how sure is the model?");
  // Taiwan, China and Japan write some characters in shapes of their own.
  for (const id of OF_TEXTS) find(id).lang = model.language ?? "";
  find("of-model").append(card(model));
  if (canary) {
    const second = make("p", {}, "A second model answers ", percent(share), " of the texts:");
    find("of-model").append(second, card(canary));
  }
  return about;
}

function question(labels) {
  if (labels.length > MOST_CHOICES) return [`Which of ${count(labels.length)} labels fits a text`];
  return ["Which label fits a text: ", ...listed(labels, "disjunction")];
}

/** Foreign words with commas between them, and "or" or nothing before the last. */
function listed(words, type) {
  const parts = new Intl.ListFormat("en", { type, style: "short" }).formatToParts(words);
  return parts.map(({ type, value }) => (type === "element" ? word(value) : value));
}

/** The name of a language; what is no code of one stays as it is. */
function language(code) {
  try {
    return new Intl.DisplayNames("en", { type: "language" }).of(code);
  } catch {
    return code;
  }
}

function card(model) {
  const { metrics, notes, report } = model;
  const right = metrics && `: ${percent(metrics.accuracy)} of ${count(metrics.n)} texts right`;
  const parts = [make("summary", {}, word(model.id), right ?? ""), facts(model)];
  if (metrics) parts.push(accuracies(model));
  if (notes.length) {
    const list = make("ul", { className: "notes" }, ...items(notes));
    parts.push(make("h3", {}, "Notes on the data"), list);
  }
  parts.push(versions(model));
  if (report) {
    parts.push(make("p", {}, make("a", { href: report }, "The report of this model")));
  }
  return make("details", {}, ...parts);
}

function facts({ metrics, ...model }) {
  const more = model.labels.length - MOST_LABELS;
  const named = listed(model.labels.slice(0, MOST_LABELS), "unit");
  const rows = {
    "Trained on": model.data_set,
    Labels: [...named, more > 0 ? `, and ${count(more)} more` : ""],
    Language: model.language && language(model.language),
    Architecture: model.architecture,
    Direction: model.direction,
    Precision: model.precision,
    Temperature: model.temperature?.toFixed(2),
    "Macro F1": metrics && percent(metrics.macro_f1),
    "Log loss": metrics?.log_loss.toFixed(3),
    "Calibration error": metrics && percent(metrics.expected_calibration_error),
  };
  const told = Object.entries(rows).filter(([, value]) => value);
  const row = ([name, value]) => [make("dt", {}, name), make("dd", {}, ...[value].flat())];
  return make("dl", {}, ...told.flatMap(row));
}

function accuracies({ metrics, baselines }) {
  const rows = Object.entries({ "This model": metrics, ...baselines }).map(([name, scores]) => [
    name, percent(scores.accuracy), scores.accuracy_ci95.map(percent).join(" to ")]);
  const caption = `Accuracy on ${count(metrics.n)} texts (${metrics.test})`;
  return table(caption, ["Classifier", "Accuracy", "95% interval"], rows);
}

function versions({ trained_with: trained, served_with: served }) {
  const names = Object.keys({ ...trained, ...served });
  const rows = names.map((name) => [name, trained[name] ?? "", served[name] ?? ""]);
  return table("Versions", ["Package", "Trained with", "Served with"], rows);
}

/** A table whose first column names its rows. A narrow window scrolls it, by keyboard, too. */
function table(caption, heads, rows) {
  const head = heads.map((name, i) => make("th", { scope: "col", className: i && "number" }, name));
  const body = rows.map(([name, ...values]) => {
    const cells = values.map((value) => make("td", { className: "number" }, value));
    return make("tr", {}, make("th", { scope: "row", dir: "auto" }, name), ...cells);
  });
  const whole = make(
    "table", {}, make("caption", {}, caption), make("thead", {}, make("tr", {}, ...head)),
    make("tbody", {}, ...body));
  const box = { className: "wide", tabIndex: 0, role: "region", ariaLabel: caption };
  return make("div", box, whole);
}
