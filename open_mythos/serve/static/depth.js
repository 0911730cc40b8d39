// Depth: how a number of loops looks, everywhere on the page, and the dial that asks for one.

import { count } from "./words.js";

/** Give an element the colour and the length of so many loops out of so many; see depth.css. */
export function sink(element, loops, most) {
  element.classList.add("water");
  element.style.setProperty("--tone", most > 1 ? (loops - 1) / (most - 1) : 1);
  element.style.setProperty("--depth", loops / most);
}

/** A slider over a stair of bars, which is the legend of all colours too. */
export class Dial {
  constructor(name, words, most, value) {
    const part = document.getElementById("dial-template").content.cloneNode(true);
    this.element = part.querySelector(".dial");
    this.input = part.querySelector("input");
    this.output = part.querySelector("output");
    this.stair = part.querySelector(".stair");
    this.label = part.querySelector("label");
    this.input.id = `loops-${name}`;
    this.label.htmlFor = this.output.htmlFor = this.input.id;
    this.name(words);
    this.input.max = most;
    this.input.value = value;
    this.stair.style.setProperty("--step", `${most <= 16 ? 14 : most <= 40 ? 5 : 2}px`);
    for (let loop = 1; loop <= most; loop += 1) {
      const bar = document.createElement("span");
      sink(bar, loop, most);
      this.stair.append(bar);
    }
    this.input.addEventListener("input", () => this.#show());
    this.#show();
  }

  get value() {
    return this.input.valueAsNumber;
  }

  name(words) {
    this.label.textContent = words;
  }

  #show() {
    const words = count(this.value, "loop");
    this.output.textContent = words;
    this.input.setAttribute("aria-valuetext", words);
    [...this.stair.children].forEach((bar, at) => bar.classList.toggle("off", at >= this.value));
  }
}
