"use strict";
// Which units are listed, in which order, and only those cards that are on screen.
(() => {
  const list = document.getElementById("list");
  const BUFFER = 2; // rows above and below the screen
  const cards = new Map(); // place in the list to its card
  let listed = [];
  let columns = 1;
  let height = 1;
  let asked = false;

  // Words anywhere in the unit's texts; in quotation marks, the whole description.
  function matcher(query) {
    const whole = /^"(.*)"$/.exec(query);
    if (whole) {
      const wanted = whole[1].toLowerCase();
      return (item) => item.layer.sides.some((side) => side.d[item.row].length && dissect.text(side.d[item.row][0]).toLowerCase() === wanted);
    }
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    return (item) => words.every((word) => hay(item).includes(word));
  }

  function hay(item) {
    if (item.hay === undefined) {
      const { layer, row } = item;
      const known = [layer.t && layer.t[row], ...(layer.o || []).map((own) => own[row])];
      const all = [...layer.sides.flatMap((side) => [...side.d[row], ...((side.g && side.g[row]) || []).map(([words]) => words)]), ...known.filter((text) => text !== undefined)];
      item.hay = `${layer.name}/${item.unit}\n${all.map(dissect.text).join("\n")}`.toLowerCase();
    }
    return item.hay;
  }

  dissect.choose = (items, choice) => {
    const fits = matcher(choice.query.trim());
    const keep = choice.show.test;
    listed = items.filter((item) => (choice.layer === "" || item.number === Number(choice.layer)) && keep(item) && fits(item));
    const turn = choice.sort.down === choice.turned ? 1 : -1;
    const { key, last } = choice.sort;
    listed.forEach((item) => {
      item.key = key(item);
      item.late = item.key === null ? 2 : Number(Boolean(last && last(item))); // unknown ones last
    });
    listed.sort((one, other) => {
      if (one.late !== other.late) return one.late - other.late;
      if (one.key === other.key) return one.place - other.place;
      return one.key < other.key ? -turn : turn;
    });
    reset();
    return listed;
  };

  dissect.listed = () => listed;

  function reset() {
    cards.forEach((card) => card.remove());
    cards.clear();
    measure();
    draw();
  }

  // All cards of a report are equally high: the first one's height is everybody's.
  function measure() {
    if (!listed.length) { list.style.height = "0"; return; }
    const gap = parseFloat(getComputedStyle(list).getPropertyValue("--gap"));
    const least = parseFloat(getComputedStyle(list).getPropertyValue("--least"));
    columns = Math.max(1, Math.floor((list.clientWidth + gap) / (least + gap)));
    list.style.setProperty("--columns", columns);
    const sample = dissect.card(listed[0]);
    place(sample, 0);
    list.append(sample);
    height = sample.offsetHeight + gap;
    sample.remove();
    list.style.height = `${Math.ceil(listed.length / columns) * height}px`;
  }

  function place(card, index) {
    card.style.setProperty("--column", index % columns);
    card.style.top = `${Math.floor(index / columns) * height}px`;
  }

  function draw() {
    asked = false;
    if (document.body.dataset.view !== "list" || document.body.dataset.printing) return;
    const top = -list.getBoundingClientRect().top;
    const first = Math.max(0, (Math.floor(top / height) - BUFFER) * columns);
    const last = Math.min(listed.length, (Math.ceil((top + innerHeight) / height) + BUFFER) * columns);
    for (const [index, card] of cards) if (index < first || index >= last) { card.remove(); cards.delete(index); }
    for (let index = first; index < last; index += 1) if (!cards.has(index)) add(index);
  }

  function add(index) {
    const card = dissect.card(listed[index]);
    card.setAttribute("aria-posinset", index + 1);
    card.setAttribute("aria-setsize", listed.length);
    card.dataset.index = index;
    place(card, index);
    cards.set(index, card);
    const next = [...cards.keys()].filter((other) => other > index).sort((a, b) => a - b)[0];
    list.insertBefore(card, next === undefined ? null : cards.get(next)); // the order of focus
  }

  function soon() {
    if (asked) return;
    asked = true;
    requestAnimationFrame(draw);
  }

  // Bring a card into view below the toolbar, and focus its link.
  dissect.focusOn = (index) => {
    const toolbar = document.querySelector(".toolbar").getBoundingClientRect();
    const start = list.getBoundingClientRect().top + Math.floor(index / columns) * height;
    const covered = Math.max(0, toolbar.bottom) + 8;
    if (start < covered) scrollBy(0, start - covered);
    else if (start + height > innerHeight) scrollBy(0, Math.min(start + height - innerHeight, start - covered));
    draw();
    const link = cards.get(index) && cards.get(index).querySelector("a.open");
    if (link) link.focus({ preventScroll: true });
  };

  dissect.focused = () => {
    const card = document.activeElement && document.activeElement.closest && document.activeElement.closest("#list .card");
    return card ? Number(card.dataset.index) : null;
  };

  dissect.firstVisible = () => {
    const toolbar = document.querySelector(".toolbar").getBoundingClientRect();
    const top = Math.max(0, toolbar.bottom) - list.getBoundingClientRect().top;
    return Math.min(listed.length - 1, Math.max(0, Math.ceil(top / height) * columns));
  };

  // For paper: the first units as plain cards, one after the other.
  dissect.lay = (most) => {
    document.body.dataset.printing = "yes";
    cards.forEach((card) => card.remove());
    cards.clear();
    list.append(...listed.slice(0, most).map((item) => dissect.card(item)));
  };
  dissect.unlay = () => {
    delete document.body.dataset.printing;
    list.replaceChildren();
    reset();
  };

  dissect.redraw = reset;
  addEventListener("scroll", soon, { passive: true });
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) { width = innerWidth; if (dissect.data) reset(); } else soon();
  });
})();
