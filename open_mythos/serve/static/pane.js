// Pane: one continuation at one depth: its text as it streams, its numbers, and what was inside.

import { sink } from "./depth.js";
import { gridTable, lensTable, loopsTable, make } from "./inside.js";
import { bytes, count, short, spelt, spoken, time } from "./words.js";

export class Pane {
  #chosen = -1;
  #found = null;

  constructor(name, most, chosen) {
    this.name = name;
    this.most = most;
    this.tokens = [];
    const part = document.getElementById("pane-template").content.cloneNode(true);
    this.element = part.querySelector(".pane");
    this.element.id = `pane-${name}`;
    this.heading = this.#part("h2");
    this.heading.id = `heading-${name}`;
    this.element.setAttribute("aria-labelledby", this.heading.id);
    this.list = this.#part(".tokens");
    this.told = chosen;
    this.list.addEventListener("keydown", (event) => this.#keyed(event));
    this.list.addEventListener("click", (event) => {
      const at = this.tokens.findIndex(({ element }) => element === event.target.closest(".token"));
      if (at >= 0) this.choose(at, true);
    });
    this.list.addEventListener("focus", () => {
      if (this.#chosen < 0 && this.tokens.length) this.choose(this.#shownFrom(0, 1), true);
    });
    this.#part(".all").addEventListener("toggle", () => this.#showGrid());
  }

  #part(selector) {
    return this.element.querySelector(selector);
  }

  /** Empty it for a continuation of `prompt` at some loops. */
  begin(prompt, loops, title) {
    this.tokens = [];
    this.loops = loops;
    this.#chosen = -1;
    this.#found = null;
    this.heading.textContent = title;
    this.#part(".given").textContent = prompt;
    this.list.replaceChildren();
    this.list.removeAttribute("aria-activedescendant");
    this.#part(".whole").textContent = "";
    this.#part(".text").setAttribute("aria-busy", "true");
    for (const number of this.element.querySelectorAll("[data-number]")) number.textContent = "\u2013";
    for (const kind of [".lens", ".loops", ".all"]) this.#part(kind).hidden = true;
    this.#say(".here", "As soon as the text is whole, the model is looked into.");
    this.element.hidden = false;
    this.began = performance.now();
    this.first = null;
  }

  /** One piece of a stream: a text and the tokens that it came with. */
  add(text, details) {
    this.first ??= performance.now();
    details.forEach((detail, at) => {
      const piece = at === details.length - 1 ? text : "";
      // The bar hangs under the word, not under the blank before it: lines break there.
      const blank = piece.trim() ? piece.match(/^\s*/)[0] : "";
      const word = make("span", { kind: "word", text: piece.slice(blank.length) });
      const element = make("span", { kind: "token", id: `${this.name}-${this.tokens.length}` }, blank, word);
      element.setAttribute("role", "option");
      element.setAttribute("aria-label", `${spoken(piece || detail.token)}, ${count(detail.left_after, "loop")}`);
      element.setAttribute("aria-selected", "false");
      word.dataset.loops = detail.left_after;
      element.hidden = piece === "";
      sink(word, detail.left_after, this.most);
      this.list.append(element);
      this.tokens.push({ id: detail.id, loops: detail.left_after, run: detail.loops, spelt: detail.token, element });
    });
    // What a stop string held back comes with the end, and with no token of its own.
    if (!details.length && text) this.list.append(make("span", { text }));
    this.#speed();
  }

  /** All is written, or nobody waits for the rest. */
  end() {
    this.#part(".text").setAttribute("aria-busy", "false");
    this.#part(".whole").textContent = `The text as one piece: ${this.text}`;
  }

  get text() {
    return this.list.textContent;
  }

  get meanLoops() {
    const total = this.tokens.reduce((sum, { loops }) => sum + loops, 0);
    return this.tokens.length ? total / this.tokens.length : 0;
  }

  /** What /v1/inspect found; `cut` where the text was too long to look into all of it. */
  look(found, cut) {
    this.#found = found;
    const { bytes_per_token: each, bytes: all } = found.cache;
    this.#number("cache", bytes(all), `${bytes(each)} for each of ${found.total_tokens} tokens`);
    this.#put(".loops", loopsTable(found, this.most));
    this.#part(".all").hidden = false;
    this.#showGrid();
    const halting = found.by_loop.halting === null ? "This model has no halting probability of its own." : "";
    const going = this.tokens.some(({ loops, run }) => loops < run)
      ? "Who has left is computed all the same: in this model later positions look at what it goes on to do." : "";
    const early = found.num_loops < this.loops ? `All had left after ${found.num_loops}.` : "";
    this.#say(".loops-hint", [cut || "Means over all that was written.", early, halting, going].filter(Boolean).join(" "));
    if (this.#chosen < 0) this.choose(this.#telling(), true);
    else this.#showLens();
  }

  /** No look inside; why. */
  unseen(words) {
    this.#say(".here", words);
  }

  /** Mark where two continuations part. */
  part(at) {
    this.tokens[at]?.element.classList.add("parting");
  }

  /** Open or close the table of every token and loop. */
  showAll(open) {
    this.#part(".all").open = open;
  }

  choose(at, tell) {
    if (at < 0 || at >= this.tokens.length) return;
    this.tokens[this.#chosen]?.element.setAttribute("aria-selected", "false");
    this.#chosen = at;
    const { element } = this.tokens[at];
    element.setAttribute("aria-selected", "true");
    this.list.setAttribute("aria-activedescendant", element.id);
    this.#showLens();
    for (const cell of this.element.querySelectorAll(".grid .chosen")) cell.classList.remove("chosen");
    for (const row of this.element.querySelectorAll(".grid tr")) row.children[at + 1]?.classList.add("chosen");
    this.#showColumn();
    if (tell) this.told(this, at);
  }

  #showLens() {
    const at = this.#chosen;
    if (at < 0) return;
    const token = this.tokens[at];
    const left = token.loops < this.loops ? `left after ${token.loops} of ${this.loops}` : `took all ${this.loops}`;
    const position = this.#found?.positions[at];
    const looked = this.#found && !position ? " It lies beyond what this server looks into." : "";
    this.#say(".here", `Token ${at + 1}, written: `);
    this.#part(".here").append(make("b", {}, spelt(token.spelt)),
      `. Its position ${left === `took all 1` ? "took the one loop" : `${left} loops`}.${looked}`);
    if (position) this.#put(".lens", lensTable(this.#found, position, token.id, this.most));
    else this.#part(".lens").hidden = true;
  }

  #showGrid() {
    if (!this.#found || !this.#part(".all").open) return;
    const grid = gridTable(this.#found, this.tokens, this.most, (at) => this.choose(at, true));
    this.#put(".grid", grid);
    if (this.#chosen >= 0) this.choose(this.#chosen, false);
  }

  /** Bring the chosen column of the grid into sight, without moving the page. */
  #showColumn() {
    const grid = this.#part(".grid");
    const column = grid.querySelector("th.chosen");
    if (!column) return;
    const middle = column.offsetLeft - (grid.clientWidth - column.offsetWidth) / 2;
    const [loops, ...columns] = grid.querySelectorAll("thead th");
    const first = columns.find((one) => one.offsetLeft - loops.offsetWidth >= middle); // a whole one
    grid.scrollLeft = first ? first.offsetLeft - loops.offsetWidth : middle;
  }

  /** The first token that only depth found: the first loop would have said another. */
  #telling() {
    const late = (position, at) => {
      const said = position.top.map((top) => top[0][0] === this.tokens[at]?.id);
      return !this.tokens[at]?.element.hidden && said.at(-1) && said.indexOf(true) >= 2;
    };
    const found = this.#found.positions.findIndex(late);
    return found >= 0 ? found : this.#shownFrom(0, 1);
  }

  #shownFrom(at, step) {
    while (this.tokens[at]?.element.hidden) at += step;
    return at;
  }

  #keyed(event) {
    const now = this.#chosen;
    const to = {
      ArrowRight: () => this.#shownFrom(now + 1, 1),
      ArrowLeft: () => this.#shownFrom(now - 1, -1),
      ArrowDown: () => this.#line(1),
      ArrowUp: () => this.#line(-1),
      Home: () => this.#shownFrom(0, 1),
      End: () => this.#shownFrom(this.tokens.length - 1, -1),
    }[event.key];
    if (!to || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.choose(to(), true);
    this.tokens[this.#chosen]?.element.scrollIntoView({ block: "nearest" });
  }

  /** The token that stands nearest, a line below or above. */
  #line(step) {
    const here = this.tokens[this.#chosen]?.element.getClientRects()[0];
    if (!here) return this.#shownFrom(0, 1);
    let best = -1;
    let least = Infinity;
    for (const [at, { element }] of this.tokens.entries()) {
      const box = element.getClientRects()[0];
      if (!box || step * (box.top - here.top) < here.height / 2) continue;
      const far = Math.abs(box.top - here.top) * 1000 + Math.abs(box.left - here.left);
      if (far < least) [best, least] = [at, far];
    }
    return best;
  }

  #speed() {
    const written = this.tokens.length;
    this.#number("first", time(this.first - this.began));
    this.#number("loops", short(this.meanLoops));
    const seconds = (performance.now() - this.first) / 1000;
    if (written > 1 && seconds > 0) this.#number("speed", `${short((written - 1) / seconds)} tokens/s`);
  }

  #number(name, text, title = "") {
    const place = this.#part(`[data-number="${name}"]`);
    place.textContent = text;
    place.title = title;
  }

  #say(selector, text) {
    this.#part(selector).textContent = text;
  }

  #put(selector, table) {
    const place = this.#part(selector);
    place.replaceChildren(table);
    place.hidden = false;
  }
}
