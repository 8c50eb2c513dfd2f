"use strict";
// The page is whole without this: it only puts new sections in place of old ones, and counts how long ago things were.
const link = document.getElementById("link");

function inWords(seconds) {
  const [size, unit] = seconds < 100 ? [1, "s"] : seconds < 6000 ? [60, "min"] : seconds < 172800 ? [3600, "h"] : [86400, "days"];
  return `${Math.floor(seconds / size)} ${unit}`;
}

function tellAges() {
  const now = Date.now() + skew;
  for (const time of document.querySelectorAll("time")) {
    const seconds = Math.round((now - Date.parse(time.dateTime)) / 1000);
    const words = seconds >= 0 ? `${inWords(seconds)} ago` : `in ${inWords(-seconds)}`;
    let age = time.nextElementSibling;
    if (!age || !age.classList.contains("age")) {
      age = document.createElement("span");
      age.className = "age";
      time.after(age);
    }
    age.textContent = ` (${words})`;
  }
}

// Ages are by the node's clock.
let skew = Date.parse(document.body.dataset.now) - Date.now();
const stream = new EventSource("api/v1/events");
stream.addEventListener("sections", (event) => {
  const told = JSON.parse(event.data);
  skew = told.at * 1000 - Date.now();
  for (const [id, markup] of Object.entries(told.sections)) {
    const section = document.getElementById(id);
    if (section) section.innerHTML = markup;
  }
  tellAges();
});
stream.addEventListener("open", () => { link.textContent = "live"; link.className = ""; });
stream.addEventListener("error", () => { link.textContent = "no connection: what you see may be old"; link.className = "off"; });
setInterval(tellAges, 1000);
tellAges();
