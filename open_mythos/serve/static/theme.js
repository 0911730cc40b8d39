// Theme: the system's, or the one that was chosen here.

import { keep, recall } from "./memory.js";

const STORED = "open-mythos-theme";
const CHOICES = ["system", "light", "dark"];

/** Let a button go round the choices. */
export function startTheme(button) {
  let now = recall(STORED);
  if (!CHOICES.includes(now)) now = "system";
  const show = () => {
    if (now === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = now;
    button.textContent = `Theme: ${now}`;
  };
  button.addEventListener("click", () => {
    now = CHOICES[(CHOICES.indexOf(now) + 1) % CHOICES.length];
    keep(STORED, now);
    show();
  });
  show();
}
