// The model card: what the server says about its model, and about a second one beside it.
import { ask, count, find, items, make, percent, word } from "./page_parts.js";

const MOST_LABELS = 20; // that are named
const MOST_CHOICES = 6; // that are named in a sentence
// With the user's words.
const OF_TEXTS = [
  "text", "verdict", "bars", "marked", "word-rows", "right", "which", "right-labels"];

/** Shows what the server says of itself, and gives it. */
export async function describe(task) {
  const about = await (await ask("v1/model", task)).json();
  const { model, canary, share } = about;
  const name = model.data_set ?? model.run; // a run without a report knows no data set
  document.title = `ULMFiT on ${name}`;
  find("title").replaceChildren("ULMFiT on ", word(name));
  find("lead").replaceChildren(...question(model), "? And how sure is the model?");
  // Taiwan, China and Japan write some characters in shapes of their own.
  for (const id of OF_TEXTS) find(id).lang = model.language ?? "";
  find("of-model").append(card(model));
  if (canary) {
    const second = make("p", {}, "A second model answers ", percent(share), " of the texts:");
    find("of-model").append(second, card(canary));
  }
  return about;
}

function question({ labels, multilabel }) {
  const fit = multilabel ? "fit a text, if any" : "fits a text";
  if (labels.length > MOST_CHOICES) return [`Which of ${count(labels.length)} labels ${fit}`];
  if (multilabel) return ["Which labels fit a text, if any: ", ...listed(labels, "unit")];
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
  const right = metrics && (model.multilabel
    ? `: all labels right for ${percent(metrics.subset_accuracy)} of ${count(metrics.n)} texts`
    : `: ${percent(metrics.accuracy)} of ${count(metrics.n)} texts right`);
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
    Temperature: range(model.temperature),
    Thresholds: range(model.thresholds),
    "Answers by": model.costs && "costs of mistakes",
    "Micro F1": share(metrics?.micro_f1),
    "Macro F1": share(metrics?.macro_f1),
    "Mean average precision": share(metrics?.mean_average_precision),
    "Hamming loss": metrics?.hamming_loss?.toFixed(3),
    "Log loss": metrics?.log_loss.toFixed(3),
    "Calibration error": share(metrics?.expected_calibration_error),
  };
  const told = Object.entries(rows).filter(([, value]) => value);
  const row = ([name, value]) => [make("dt", {}, name), make("dd", {}, ...[value].flat())];
  return make("dl", {}, ...told.flatMap(row));
}

/** What may be undefined, or null where no text has what it is about. */
const share = (value) => (value == null ? undefined : percent(value));

/** A number, or those of all labels from the lowest to the highest. */
function range(found) {
  if (found === undefined) return undefined;
  const values = Object.values(found.toFixed ? [found] : found);
  const ends = [Math.min(...values), Math.max(...values)].map((one) => one.toFixed(2));
  return [...new Set(ends)].join(" to ");
}

function accuracies({ metrics, baselines, multilabel }) {
  if (multilabel) return exactly(metrics, baselines);
  const rows = Object.entries({ "This model": metrics, ...baselines }).map(([name, scores]) => [
    name, percent(scores.accuracy), scores.accuracy_ci95.map(percent).join(" to ")]);
  const caption = `Accuracy on ${count(metrics.n)} texts (${metrics.test})`;
  return table(caption, ["Classifier", "Accuracy", "95% interval"], rows);
}

/** Of several labels a text. */
function exactly(metrics, baselines) {
  const rows = Object.entries({ "This model": metrics, ...baselines }).map(([name, scores]) => [
    name, share(scores.micro_f1) ?? "–", share(scores.macro_f1) ?? "–",
    percent(scores.subset_accuracy), scores.subset_accuracy_ci95.map(percent).join(" to ")]);
  const caption = `Scores on ${count(metrics.n)} texts (${metrics.test})`;
  const heads = ["Classifier", "Micro F1", "Macro F1", "All labels right", "95% interval"];
  return table(caption, heads, rows);
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
