// App: what is asked, by whom, and in how many panes it is answered.

import { Api, Trouble } from "./api.js";
import { Dial } from "./depth.js";
import { Pane } from "./pane.js";
import { startTheme } from "./theme.js";
import { count, short } from "./words.js";

const EXITS = {
  calibrated: "when this model's own measurements say so",
  kl: "when the prediction has settled (kl)",
  entropy: "when the prediction is sure (entropy)",
  stability: "when the likeliest token stays (stability)",
  latent: "when the state has settled (latent)",
  acceleration: "when the state slows down (acceleration)",
  act: "when the halting probabilities add up (act)",
  gate: "when the gate opens (gate)",
};

const $ = (id) => document.getElementById(id);
const api = new Api();
let model = null;
let dials = [];
let panes = [];
let running = null;

function say(words) {
  $("status").textContent = words;
}

function complain(error) {
  $("error").textContent = error.message;
  $("error").hidden = false;
}

function calm() {
  $("error").hidden = true;
  $("error").textContent = "";
}

// -- the model ---------------------------------------------------------------------------------

async function connect() {
  try {
    model = await api.model();
  } catch (error) {
    if (!(error instanceof Trouble)) throw error;
    say("Not connected.");
    if (error.status === 401) askForKey(error.message);
    else complain(error);
    return;
  }
  calm();
  $("key-open").hidden = !api.keyed; // who was let in without one needs none
  const { id, max_loops: most, max_model_len: context } = model;
  $("model").textContent = `${id}: up to ${count(most, "loop")}, ${context} tokens of context`;
  $("mode-field").hidden = !model.chat;
  $("tokens").max = Math.min(model.max_output_tokens, context - 1);
  $("tokens").value = Math.min($("tokens").value || 100, $("tokens").max);
  fillExits();
  dials = [new Dial("a", "", most, most), new Dial("b", "", most, Math.max(1, Math.round(most / 4)))];
  $("dials").replaceChildren(...dials.map(({ element }) => element));
  panes = ["a", "b"].map((name) => new Pane(name, most, together));
  $("panes").replaceChildren(...panes.map(({ element }) => element));
  arrange();
  say("Ready. Type a prompt, choose a depth, and press Write.");
}

function fillExits() {
  const never = $("exit").options[0];
  const own = model.readout !== "last";
  never.textContent = own ? "as the model halts by itself" : "never: all loops for every token";
  const options = model.exits.map(({ name, threshold }) => {
    const option = document.createElement("option");
    option.value = name;
    option.textContent = EXITS[name] ?? `by ${name}`;
    option.dataset.threshold = threshold ?? "";
    return option;
  });
  $("exit").replaceChildren(never, ...options);
  const names = model.exits.map(({ name }) => name);
  const first = ["calibrated", ...(own ? [] : ["kl"])].find((name) => names.includes(name));
  $("exit").value = first ?? "";
  showExit();
}

function showExit() {
  const threshold = $("exit").selectedOptions[0].dataset.threshold ?? "";
  $("threshold").value = "";
  $("threshold").placeholder = threshold ? short(Number(threshold)) : "none";
  $("threshold").disabled = threshold === "";
  $("exit-hint").textContent = $("exit").value
    ? "A position that is done leaves; the dial says how many loops it may take at most."
    : "";
}

// -- one depth or two --------------------------------------------------------------------------

function arrange() {
  const both = $("compare").checked;
  document.body.classList.toggle("comparing", both);
  if (!dials.length) return;
  dials.forEach((dial, at) => dial.name(both ? `Loops at most, ${["left", "right"][at]}` : "Loops at most"));
  dials[1].element.hidden = !both;
  if (!both) panes[1].element.hidden = true;
  for (const pane of panes) pane.showAll(!both);
}

/** Who chooses a token on one side sees the same place on the other. */
function together(pane, at) {
  for (const other of panes) {
    if (other !== pane && !other.element.hidden) other.choose(at, false);
  }
}

// -- writing -----------------------------------------------------------------------------------

function question(loops, seed) {
  const chat = !$("mode-field").hidden && $("mode").value === "chat";
  const prompt = $("prompt").value;
  const name = $("exit").value;
  const threshold = $("threshold").value.trim();
  const exit = name && threshold ? `${name}:${threshold}` : name;
  const how = { model: model.id, num_loops: loops, ...(exit && { exit }) };
  const asked = chat ? { messages: [{ role: "user", content: prompt }] } : { prompt };
  return {
    prompt,
    path: chat ? "v1/chat/completions" : "v1/completions",
    write: { ...how, ...asked, seed, max_tokens: $("tokens").valueAsNumber || 100,
      temperature: Number($("temperature").value), token_details: true,
      stream_options: { include_usage: true } },
    look: { ...how, ...asked, top: 5 },
  };
}

async function write() {
  calm();
  running?.abort();
  const mine = new AbortController();
  running = mine;
  const both = $("compare").checked;
  const seed = $("seed").value ? Number($("seed").value) : Math.floor(Math.random() * 2 ** 31);
  $("stop").disabled = false;
  say(both ? "Writing at two depths." : "Writing.");
  const used = panes.slice(0, both ? 2 : 1);
  try {
    const told = used.map((pane, at) => {
      const loops = dials[at].value;
      const side = both ? ["Left, up", "Right, up"][at] : "Up";
      return { pane, asked: question(loops, seed), loops, title: `${side} to ${count(loops, "loop")}` };
    });
    const costs = await Promise.all(told.map((one) => stream(one, mine.signal)));
    const parted = both ? compare() : "";
    say(`${used.map(summary).join(" ")}${parted}`);
    await Promise.all(told.map((one, at) => inspect(one, costs[at], mine.signal)));
  } catch (error) {
    mine.abort();
    if (running !== mine) return; // another has begun in the same panes
    for (const pane of used) pane.unseen("What broke off is not looked into.");
    if (error.name === "AbortError") say("Stopped.");
    else if (error instanceof Trouble) {
      say("That went wrong.");
      if (error.status === 401) askForKey(error.message);
      else complain(error);
    } else throw error;
  } finally {
    if (running === mine) {
      used.forEach((pane) => pane.end());
      running = null;
      $("stop").disabled = true;
    }
  }
}

async function stream({ pane, asked, loops, title }, signal) {
  pane.begin(asked.prompt, loops, title);
  let usage = null;
  for await (const piece of api.stream(asked.path, asked.write, signal)) {
    signal.throwIfAborted(); // or a piece that was on its way ends up in the next text
    usage = piece.usage ?? usage;
    const [choice] = piece.choices;
    if (choice) pane.add(choice.text ?? choice.delta?.content ?? "", choice.token_details);
  }
  pane.end();
  return usage;
}

/** Look into what was written, or into as much of it as this server does. */
async function inspect({ pane, asked }, usage, signal) {
  const room = model.max_inspect_len - usage.prompt_tokens;
  if (room < 1) {
    pane.unseen(`The prompt has ${usage.prompt_tokens} tokens, and this server looks into ${model.max_inspect_len}.`);
    return;
  }
  const ids = pane.tokens.map(({ id }) => id);
  const cut = ids.length > room ? `Of the first ${model.max_inspect_len} tokens, the most that this server looks into.` : "";
  if (!ids.length) return;
  const body = { ...asked.look, continuation: ids.slice(0, room), first: usage.prompt_tokens - 1 };
  pane.look(await api.inspect(body, signal), cut);
}

function summary(pane) {
  const loops = short(pane.meanLoops);
  return `${pane.heading.textContent}: ${count(pane.tokens.length, "token")}, left after ${loops} on average.`;
}

/** Where two continuations of one prompt and seed part, marked and in words. */
function compare() {
  const [left, right] = panes.map(({ tokens }) => tokens.map(({ id }) => id));
  const at = left.findIndex((id, place) => id !== right[place]);
  if (at < 0 && left.length === right.length) return " Both say the same.";
  const place = at < 0 ? left.length : at;
  panes.forEach((pane) => pane.part(place));
  return ` They part at token ${place + 1}.`;
}

// -- the key -----------------------------------------------------------------------------------

function askForKey(words) {
  if (words) $("key-words").textContent = `${words} It is sent to this server alone, and forgotten when the page closes.`;
  if (!$("key-dialog").open) $("key-dialog").showModal();
  $("key").focus();
}

function takeKey(key) {
  api.use(key, $("key-keep").checked);
  $("key").value = "";
  $("key-dialog").close();
  connect();
}

// -- wiring ------------------------------------------------------------------------------------

startTheme($("theme"));
$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (model) write();
  else connect();
});
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("ask").requestSubmit();
});
$("stop").addEventListener("click", () => running?.abort());
$("more").addEventListener("invalid", () => { $("more").open = true; }, true); // or nobody sees which
$("compare").addEventListener("change", arrange);
$("numbered").addEventListener("change", () => document.body.classList.toggle("numbered", $("numbered").checked));
$("exit").addEventListener("change", showExit);
$("key-open").addEventListener("click", () => askForKey());
$("key-close").addEventListener("click", () => $("key-dialog").close());
$("key-forget").addEventListener("click", () => takeKey(""));
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  takeKey($("key").value.trim());
});
connect();
