// Inside: tables of what /v1/inspect says: predictions over depth, and what the loops did.

import { sink } from "./depth.js";
import { percent, short, spelt, spoken } from "./words.js";

/** An element with a class, a text and children; text is never markup. */
export function make(tag, { kind, text, label, ...rest } = {}, ...children) {
  const element = document.createElement(tag);
  if (kind) element.className = kind;
  if (text !== undefined) element.textContent = text;
  if (label) element.setAttribute("aria-label", label);
  Object.assign(element, rest);
  element.append(...children);
  return element;
}

function headed(words) {
  const row = make("tr");
  for (const [text, title] of words) row.append(make("th", { text, title, scope: "col" }));
  return make("thead", {}, row);
}

function loopCell(loop, most) {
  const mark = make("span", { kind: "mark" });
  sink(mark, loop, most);
  return make("th", { scope: "row" }, make("span", { text: loop }), mark);
}

function bar(share, loop, most) {
  const found = make("span", { kind: "share" });
  sink(found, loop, most);
  found.style.setProperty("--share", share);
  return found;
}

/** What one position would say after each loop. */
export function lensTable(found, position, written, most) {
  const table = make("table", {}, headed([["loop"], ["likeliest next token"], ["how sure"], ["runners-up"]]));
  const body = make("tbody");
  position.top.forEach((top, at) => {
    const loop = at + 1;
    const [token, p] = top[0];
    const row = make("tr");
    const hit = token === written;
    row.classList.toggle("hit", hit);
    row.classList.toggle("gone", loop > position.loops);
    const word = make("td", { kind: "word" }, spelt(found.spellings[token]));
    if (hit) word.append(make("span", { kind: "visually-hidden", text: ", the one that was written" }));
    word.append(bar(p, loop, most));
    const rest = make("td", { kind: "rest" });
    if (loop > position.loops) rest.textContent = `had left after ${position.loops}`;
    else rest.append(...top.slice(1, 4).map(([other]) => spelt(found.spellings[other])));
    row.append(loopCell(loop, most), word, make("td", { kind: "number", text: percent(p) }), rest);
    body.append(row);
  });
  table.append(body);
  return table;
}

/** What the loops did with all that was written; columns that the model has nothing for are left out. */
export function loopsTable(found, most) {
  const told = found.by_loop;
  const columns = [
    ["loop", "", null],
    ["have left", "share of positions that have left the loop by then",
      (at) => withBar(told.left[at], percent(told.left[at]), at + 1, most)],
    ["halting", "mean halting probability after the loop",
      told.halting && ((at) => withBar(told.halting[at], percent(told.halting[at]), at + 1, most))],
    ["still moving", "how far the loop moved the prediction: mean divergence from that before, in nats",
      (at) => {
        const value = at ? told.change[at - 1] : null;
        if (value === null) return cell("\u2013");
        return withBar(value / Math.max(...told.change, 1e-9), short(value), at + 1, most);
      }],
    ["state", "root mean square of the loop's state", (at) => cell(short(told.state_rms[at]))],
    ["experts", "tokens served by each expert, left to right",
      told.experts && ((at) => expertCell(told.experts.load[at]))],
  ];
  const used = columns.filter(([name, , fill]) => name === "loop" || fill);
  const table = make("table", {}, headed(used.map(([name, title]) => [name, title])));
  const body = make("tbody");
  for (let at = 0; at < found.num_loops; at += 1) {
    const row = make("tr", {}, loopCell(at + 1, most));
    for (const [, , fill] of used.slice(1)) row.append(fill(at));
    body.append(row);
  }
  table.append(body);
  return table;
}

function cell(text) {
  return make("td", { kind: "number", text });
}

function withBar(share, text, loop, most) {
  return make("td", { kind: "number barred" }, make("span", { text }), bar(share, loop, most));
}

function expertCell(load) {
  const total = load.reduce((sum, one) => sum + one, 0) || 1;
  const busiest = Math.max(...load);
  const strip = make("span", { kind: "strip", role: "img" });
  strip.setAttribute("aria-label", `expert ${load.indexOf(busiest) + 1} of ${load.length} is the busiest, `
    + `with ${percent(busiest / total)}; ${load.filter((one) => !one).length} were idle`);
  strip.title = strip.getAttribute("aria-label");
  const stops = load.map((one, at) => {
    const colour = `color-mix(in oklch, var(--expert) ${Math.round((100 * one) / (busiest || 1))}%, var(--sunk))`;
    return `${colour} ${(100 * at) / load.length}% ${(100 * (at + 1)) / load.length}%`;
  });
  strip.style.setProperty("background-image", `linear-gradient(to right, ${stops.join(", ")})`);
  return make("td", { kind: "experts" }, strip);
}

/** Tokens across, loops down: the likeliest token of each. */
export function gridTable(found, tokens, most, chosen) {
  const first = make("tr", {}, make("th", { text: "loop", scope: "col" }));
  const columns = tokens.slice(0, found.positions.length);
  columns.forEach((token, at) => {
    const pick = make("button", { type: "button", tabIndex: -1 }, spelt(token.spelt));
    pick.addEventListener("click", () => chosen(at));
    first.append(make("th", { scope: "col" }, pick));
  });
  const body = make("tbody");
  for (let at = 0; at < found.num_loops; at += 1) {
    const row = make("tr", {}, loopCell(at + 1, most));
    columns.forEach((token, column) => {
      const position = found.positions[column];
      const [likeliest, p] = position.top[at][0];
      const gone = at + 1 > position.loops;
      const word = make("td");
      if (gone) {
        word.className = "gone";
        word.textContent = "\u00b7";
      } else {
        word.append(spelt(found.spellings[likeliest]));
        sink(word, at + 1, most);
        word.style.setProperty("--share", p);
        word.classList.toggle("hit", likeliest === token.id);
        word.title = `${spoken(found.spellings[likeliest])}, ${percent(p)}`;
      }
      row.append(word);
    });
    body.append(row);
  }
  return make("table", {}, make("thead", {}, first), body);
}
