// What one page gives to the next.
export const handed = { compose: '' };
