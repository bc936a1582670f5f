// A run that is gone to is shown, even if a filter hid it, and reads aloud from its card on.
const goTo = () => {
  const card = document.getElementById(location.hash.slice(1));
  if (!card?.classList.contains("pc-card")) return;
  if (card.hidden) document.querySelector('.pc-filter [data-show=""]').click();
  card.focus({ preventScroll: true });
  card.scrollIntoView({ block: "center" });
};
window.addEventListener("hashchange", goTo);
goTo();
