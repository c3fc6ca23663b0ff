// What is wrong with the page that is looked at, as sentences.
(() => {
  const wrong = [];
  const all = (selector) => [...document.querySelectorAll(selector)];
  const name = (e) => (e.getAttribute("aria-label") || (e.getAttribute("aria-labelledby") || "").split(" ").map((id) => document.getElementById(id)?.textContent || "").join(" ") || e.getAttribute("title") || "").trim();
  const what = (e) => e.outerHTML.slice(0, 160);

  if (!document.documentElement.lang) wrong.push("the page has no language");
  if (!document.title.trim()) wrong.push("the page has no title");
  for (const part of ["header", "main", "nav", "footer"]) if (all(part).length === 0) wrong.push(`there is no <${part}>`);
  for (const nav of all("nav")) if (!name(nav)) wrong.push("a <nav> has no name");
  if (all("main").length > 1) wrong.push("there is more than one <main>");
  const ones = all("h1");
  if (ones.length !== 1 || !ones[0].textContent.trim()) wrong.push(`there are ${ones.length} headings <h1>, or it is empty`);
  let level = 0;
  for (const h of all("h1, h2, h3, h4, h5, h6")) {
    const next = Number(h.tagName[1]);
    if (next > level + 1) wrong.push(`the heading "${h.textContent.slice(0, 60)}" is of level ${next} below one of level ${level}`);
    level = next;
  }
  const ids = new Map();
  for (const e of all("[id]")) ids.set(e.id, (ids.get(e.id) || 0) + 1);
  for (const [id, n] of ids) if (n > 1) wrong.push(`the id ${id} is there ${n} times`);

  for (const image of all("img")) if (!image.hasAttribute("alt")) wrong.push(`a picture has no text: ${what(image)}`);
  for (const svg of all("svg")) {
    if (svg.getAttribute("aria-hidden") === "true" || svg.parentElement.closest("svg, [aria-hidden=true]")) continue;
    if (!name(svg) && !svg.querySelector(":scope > title")?.textContent.trim() && !svg.closest("figure")?.querySelector("figcaption")) wrong.push(`a drawing has no name: ${what(svg)}`);
  }
  for (const field of all("input:not([type=hidden]), select, textarea")) if (!name(field) && ![...field.labels].some((l) => l.textContent.trim())) wrong.push(`a field has no label: ${what(field)}`);
  for (const e of all("button, a[href], summary")) if (!e.textContent.trim() && !name(e) && !e.querySelector("img[alt]:not([alt='']), svg[aria-label]")) wrong.push(`nobody can tell what this does: ${what(e)}`);
  for (const th of all("th")) if (!th.scope) wrong.push(`a heading of a table has no scope: ${what(th)}`);
  for (const a of all("a[href^='#']")) if (!document.getElementById(a.getAttribute("href").slice(1))) wrong.push(`a link leads to no place of the page: ${what(a)}`);

  const spill = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  if (spill > 0) {
    const outside = all("body *").find((e) => e.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5 && !e.closest(".wide, nav, pre, .skip"));
    wrong.push(`the page is ${spill} px wider than the window, such as by ${outside ? what(outside) : "something"}`);
  }
  return wrong;
})()
