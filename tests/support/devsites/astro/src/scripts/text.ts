export const text = 'edit 0';
