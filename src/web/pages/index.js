// The home page: an id, or a link that somebody has sent, leads to its page.

/** Of a link to a page the id alone; its key, if it has one, goes along. */
function parse(text) {
  const typed = text.trim();
  const link = /\/(?:timer|wall|room|exam)\/([^/?#]+)[^#]*(#.*)?$/.exec(typed);
  return link ? { id: link[1], fragment: link[2] ?? '' } : { id: encodeURIComponent(typed), fragment: '' };
}

for (const form of document.forms) {
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    const { id, fragment } = parse(form.elements.id.value);
    if (id === '') return form.elements.id.focus();
    // A key in this page's address is meant for all of them.
    location.href = (event.submitter?.value || form.dataset.to) + id + (fragment || location.hash);
  });
}
