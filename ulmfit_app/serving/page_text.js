// A text: its probabilities, the words that moved them, and what would have been right.
import { Problem, Tasks, askJson, count, find, items, make, percent, word } from "./page_parts.js";

const MOST_BARS = 10; // labels that are shown at first
const MOST_MARKS = 10; // words that are marked
const NONE = "None of the labels"; // is given to a text that may have several

/**
 * The part of the page about one text.
 * @param {() => object | null} about what the server says of itself, once it has
 */
export function text(about) {
  const ofText = new Tasks(find("of-text"));
  const ofWords = new Tasks(find("of-words"));
  const ofFeedback = new Tasks(find("of-feedback"));
  let answered = null; // the text that the answer on the page is for

  async function predict(task) {
    const text = find("text").value;
    if (!text.trim()) throw new Problem("There is no text yet: type or paste one.");
    // A server may close the door on a large body before it has said why.
    const most = about()?.limits.text_characters ?? Infinity;
    if ([...text].length > most) {
      throw new Problem(`The text has more than ${count(most)} characters: shorten it.`);
    }
    task.say("Predicting …");
    const { predictions, notes } = await askJson("v1/predict", task, { text });
    task.say("");
    answered = text;
    ofWords.stop();
    ofFeedback.stop();
    showAnswer(predictions[0], notes, about());
  }

  async function explain(task) {
    const text = answered;
    task.say("Taking out the words in turn …");
    const label = find("which").hidden ? {} : { label: find("which").value };
    const found = await askJson("v1/explain", task, { text, ...label });
    const marked = showWords(text, found);
    task.say(marked ? `Marked: ${marked} of ${count(found.n_words)} words.` : "No word moved it.");
  }

  async function tell(task) {
    task.say("Sending …");
    const ticked = [...find("right-labels").querySelectorAll(":checked")];
    const right = find("right-set").hidden
      ? { label: find("right").value }
      : { labels: ticked.map((box) => box.value) };
    await askJson("v1/feedback", task, { text: answered, ...right });
    find("feedback").hidden = true;
    task.say(`Thank you. The text and your ${"label" in right ? "label" : "labels"} are stored.`);
  }

  const on = (id, type, act) =>
    find(id).addEventListener(type, (event) => {
      event.preventDefault();
      act();
    });
  on("text-form", "submit", () => ofText.run(predict));
  on("explain", "click", () => ofWords.run(explain));
  on("feedback", "submit", () => ofFeedback.run(tell));
  find("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) ofText.run(predict);
  });
  find("text").addEventListener("input", () => {
    find("changed").hidden = find("text").value === answered;
  });
}

function showAnswer(prediction, notes, about) {
  const { labels, label, probabilities, thresholds, model, decided_by: by } = prediction;
  const several = labels !== undefined; // a text may have several, or none
  const given = several ? labels : [label];
  const shares = Object.entries(probabilities).sort(([, a], [, b]) => b - a);
  find("answer").hidden = false;
  find("changed").hidden = true;
  find("explanation").hidden = true;
  find("verdict").replaceChildren(...(given.length ? verdict(given, probabilities) : [NONE]));
  find("decided-by").hidden = !by;
  find("decided-by").textContent = several
    ? "The thresholds are those that the costs give."
    : `Chosen by ${by}: it need not be the likeliest label.`;
  find("answered-by").hidden = !about?.canary;
  find("answered-by").replaceChildren("Answered by ", word(model));
  find("answer-notes").replaceChildren(...items(notes));
  find("bars-key").hidden = !several;
  showBars(shares, given, thresholds);
  offerLabels(several, shares, given);
  find("of-feedback").hidden = !about?.feedback;
  find("feedback").hidden = false;
}

const verdict = (given, probabilities) =>
  given.flatMap((label) => [
    make("span", {}, make("b", {}, word(label)), " ", percent(probabilities[label])), " ",
  ]);

/** What can be explained, where a text may have several labels, and what can be said to be right. */
function offerLabels(several, shares, given) {
  const names = shares.map(([label]) => label);
  const option = (label) => new Option(label, label);
  for (const id of ["which", "which-label", "right-set"]) find(id).hidden = !several;
  for (const id of ["right", "right-label"]) find(id).hidden = several;
  find("right").disabled = several; // or the form would wait for it
  if (!several) {
    const others = names.filter((label) => !given.includes(label)).map(option);
    find("right").replaceChildren(make("option", { value: "" }, "Choose a label"), ...others);
    return;
  }
  const first = [...given, ...names.filter((label) => !given.includes(label))];
  find("which").replaceChildren(...first.map(option));
  const boxes = first.map((label) => {
    const box = make("input", { type: "checkbox", value: label, checked: given.includes(label) });
    return make("label", {}, box, " ", word(label));
  });
  find("right-labels").replaceChildren(...boxes);
}

function showBars(shares, given, thresholds) {
  const bars = shares.map(([label, share]) => {
    const fill = make("span", { className: "fill" });
    fill.style.setProperty("--share", `${100 * share}%`);
    const name = make("span", { className: "name", dir: "auto" }, label);
    const track = make("span", { className: "track" }, fill);
    const end = make("span", { className: "share" }, percent(share));
    if (thresholds) {
      const needs = percent(thresholds[label]);
      const line = make("span", { className: "limit", title: `needs ${needs}` });
      line.style.setProperty("--limit", `${100 * thresholds[label]}%`);
      track.append(line);
      end.append(make("span", { className: "unseen" }, ` (needs ${needs})`));
    }
    return make("li", { className: given.includes(label) ? "given" : "" }, name, " ", track, end);
  });
  const least = Math.max(...shares.map(([label], i) => (given.includes(label) ? i + 1 : 0)));
  const most = Math.max(MOST_BARS, least); // what is given is always shown
  const more = find("more");
  more.hidden = bars.length <= most;
  more.textContent = `Show all ${count(bars.length)} labels`;
  more.onclick = () => {
    find("bars").append(...bars.slice(most));
    more.hidden = true;
  };
  find("bars").replaceChildren(...bars.slice(0, most));
}

/** Shows an explanation; gives how many words are marked. */
function showWords(text, { label, probability, n_words: all, words }) {
  const strongest = words
    .filter((one) => one.score !== 0 && one.word.trim())
    .sort((a, b) => Math.abs(b.score) - Math.abs(a.score))
    .slice(0, MOST_MARKS);
  const runs = Math.ceil(all / words.length);
  const how = runs > 1 ? `${runs} words are taken out at a time` : "a word is taken out";
  find("how").replaceChildren(
    `How far the log-odds of `, word(label), ` (${percent(probability)}) fall when ${how}.`);
  find("marked").replaceChildren(...markWords(text, strongest, label));
  const number = (text) => make("td", { className: "number" }, text);
  find("word-rows").replaceChildren(
    ...strongest.map((one) => {
      const name = make("th", { scope: "row", dir: "auto" }, one.word);
      return make("tr", {}, name, number(signed(one.score)), number(percent(one.without)));
    }),
  );
  find("explanation").hidden = false;
  return strongest.length;
}

/** The text as nodes, its strongest words marked. */
function markWords(text, strongest, label) {
  const characters = [...text]; // the server counts these; a JavaScript string, halves of emoji
  const cut = (start, stop) => characters.slice(start, stop).join("");
  const largest = Math.abs(strongest[0]?.score);
  const nodes = [];
  let done = 0;
  for (const { start, stop, score, without } of [...strongest].sort((a, b) => a.start - b.start)) {
    // <b> and <u> say it without the colour, the hidden score to those who hear the page.
    const [tag, className] = score > 0 ? ["b", "for"] : ["u", "against"];
    const title = `${signed(score)} to the log-odds of ${label}; ${percent(without)} without it`;
    const heard = make("span", { className: "unseen" }, ` (${signed(score)})`);
    const mark = make(tag, { className, title }, cut(start, stop), heard);
    mark.style.setProperty("--share", 0.12 + (0.38 * Math.abs(score)) / largest);
    nodes.push(cut(done, start), mark);
    done = stop;
  }
  return [...nodes, cut(done)];
}

const signed = (score) => `${score < 0 ? "−" : "+"}${Math.abs(score).toFixed(2)}`;
