// Two things that the theme leaves out: tables that scroll can be reached by keyboard, and the bars of code have names.
const mend = () => {
  for (const table of document.querySelectorAll(".md-typeset__scrollwrap:not([tabindex])")) table.tabIndex = 0;
  document.querySelectorAll(".md-code__nav:not([aria-label])").forEach((bar) => {
    bar.setAttribute("aria-label", `Block ${1 + [...document.querySelectorAll(".md-code__nav")].indexOf(bar)}`);
  });
};
new MutationObserver(mend).observe(document.documentElement, { childList: true, subtree: true });
mend();
