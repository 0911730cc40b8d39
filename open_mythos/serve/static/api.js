// Api: the server's interface: who asks, streams as they come, and errors in words.

import { keep, recall } from "./memory.js";

const STORED = "open-mythos-key";

/** Something went wrong, said for people; `status` is HTTP's, 0 where there was no answer. */
export class Trouble extends Error {
  constructor(words, status = 0) {
    super(words);
    this.status = status;
  }
}

export class Api {
  #key = recall(STORED) ?? "";

  get keyed() {
    return this.#key !== "";
  }

  /** Use a key from now on; it is written down only where that was asked for. */
  use(key, kept) {
    this.#key = key;
    keep(STORED, kept && key ? key : null);
  }

  /** The model that there is. */
  async model() {
    const answer = await this.#send("v1/models");
    return (await answer.json()).data[0];
  }

  async inspect(body, signal) {
    const answer = await this.#send("v1/inspect", body, signal);
    return answer.json();
  }

  /** The pieces of a stream, as they come. */
  async *stream(path, body, signal) {
    const answer = await this.#send(path, { ...body, stream: true }, signal);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) throw new Trouble("The server broke off in the middle of its answer.");
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data: ")) continue;
        if (line === "data: [DONE]") return;
        const piece = JSON.parse(line.slice(6));
        if (piece.error) throw new Trouble(sentence(piece.error.message));
        yield piece;
      }
    }
  }

  async #send(path, body, signal) {
    const headers = {};
    if (this.#key) headers.authorization = `Bearer ${this.#key}`;
    if (body) headers["content-type"] = "application/json";
    let answer;
    try {
      answer = await fetch(path, {
        method: body ? "POST" : "GET",
        headers,
        body: body && JSON.stringify(body),
        signal,
        cache: "no-store",
        credentials: "omit",
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Trouble("The server cannot be reached. Is it still running?");
    }
    if (!answer.ok) throw await trouble(answer);
    return answer;
  }
}

async function trouble(answer) {
  let told = "";
  try {
    told = (await answer.json()).error.message;
  } catch {
    told = `the server answered with status ${answer.status}, and no reason`;
  }
  const wait = Number(answer.headers.get("retry-after"));
  const words = {
    401: "This server asks for an API key, and has none from you, or another.",
    429: "You have asked for too much at once.",
    503: "The server is busy, or about to end.",
  }[answer.status];
  const again = wait ? ` Try again in ${wait} ${wait === 1 ? "second" : "seconds"}.` : "";
  const said = answer.status === 401 ? "" : sentence(told);
  return new Trouble([words, said].filter(Boolean).join(" ") + again, answer.status);
}

function sentence(text) {
  const end = /[.!?]$/.test(text) ? "" : ".";
  return text.charAt(0).toUpperCase() + text.slice(1) + end;
}
