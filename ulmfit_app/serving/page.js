// The page of the server. Its parts know nothing of each other. All addresses are relative, so
// that it works below a proxy's path.
import { file } from "./page_file.js";
import { describe } from "./page_model.js";
import { Tasks, find } from "./page_parts.js";
import { text } from "./page_text.js";

let about = null; // the models and limits, as soon as the server has said them

text(() => about);
file(() => about);
new Tasks(find("of-model")).run(async (task) => {
  about = await describe(task);
});
