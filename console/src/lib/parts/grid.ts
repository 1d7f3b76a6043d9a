// What a column of a Grid shows of a row.
export interface GridColumn<Row> { title: string; text?: (row: Row) => string; isNumber?: boolean; isMono?: boolean; tone?: (row: Row) => string }
