"use strict";
// Keeps the page as the agent last said it: parts that changed come as server-sent events. Without it the page reloads itself.
(() => {
  const root = document.documentElement;
  const live = document.getElementById("live");
  const RETRY_MS = 3000;
  let ahead = Number(root.dataset.now) * 1000 - Date.now(); // the agent's clock, compared with ours

  const now = () => (Date.now() + ahead) / 1000;

  // As agent/report/fleet.py writes ages.
  function age(seconds) {
    const left = Math.max(0, Math.trunc(seconds));
    const pair = (big, bigUnit, small, smallUnit) => small ? `${big}${bigUnit}${small}${smallUnit}` : `${big}${bigUnit}`;
    const minutes = Math.trunc(left / 60), hours = Math.trunc(left / 3600);
    if (left < 120) return `${left}s`;
    if (left < 600) return pair(minutes, "m", left % 60, "s");
    if (left < 3 * 3600) return `${minutes}m`;
    if (left < 8 * 3600) return pair(hours, "h", minutes % 60, "m");
    if (left < 48 * 3600) return `${hours}h`;
    return `${Math.trunc(left / 86400)}d`;
  }

  function relative(seconds) {
    return seconds > -1 ? `${age(seconds)} ago` : `in ${age(-seconds)}`;
  }

  function tick() {
    for (const element of document.querySelectorAll("[data-at]")) {
      const words = relative(now() - Number(element.dataset.at));
      if (element.textContent !== words) element.textContent = words;
    }
  }

  // Changes what is another and leaves the rest: focus and a selection stay, and bars move instead of jumping.
  function become(old, fresh) {
    if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
      old.replaceWith(fresh);
      return;
    }
    if (old.nodeType === Node.TEXT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
      return;
    }
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    const children = [...fresh.childNodes];
    children.forEach((child, number) => {
      const there = old.childNodes[number];
      if (there) become(there, child);
      else old.append(child);
    });
    while (old.childNodes.length > children.length) old.lastChild.remove();
  }

  function show(state, words) {
    if (live.className === state) return;
    live.className = state;
    live.textContent = words;
  }

  const clock = () => new Date(now() * 1000).toISOString().slice(11, 19);

  function connect() {
    const source = new EventSource("api/v1/events");
    source.addEventListener("parts", (event) => {
      const news = JSON.parse(event.data);
      if (news.edition !== root.dataset.edition) {
        location.reload();
        return;
      }
      ahead = news.at * 1000 - Date.now();
      for (const [name, html] of Object.entries(news.parts)) {
        const draft = document.createElement("template");
        draft.innerHTML = html;
        become(document.getElementById(name), draft.content.firstElementChild);
      }
      show("on", "live");
      tick();
    });
    source.addEventListener("error", () => {
      show("off", `not connected since ${clock()} UTC`);
      if (source.readyState === EventSource.CLOSED) setTimeout(connect, RETRY_MS);
    });
  }

  show("wait", "connecting");
  setInterval(tick, 1000);
  connect();
})();
